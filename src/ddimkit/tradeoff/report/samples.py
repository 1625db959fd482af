"""Images of a study as pictures: tiled pixel for pixel, in rows of equal seeds, and as data URIs for a page."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ddimkit.tradeoff.report.style import new_figure, short
from ddimkit.tradeoff.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["data_uri", "draw_samples", "drawable", "save_grid", "tile"]

_MOST, _LARGEST = 16, 64


def save_grid(images: NDArray[np.float32], path: Path, columns: int | None = None) -> Path:
    """Write images (N, C, H, W) in [−1, 1] as one picture, pixel for pixel, four screen pixels to one.

    Args:
        images: the images; one or three channels.
        path: a ``.png`` file.
        columns: images in a row; near a square by default.
    """
    from matplotlib import image

    picture = tile(images, columns or math.ceil(math.sqrt(len(images))))
    image.imsave(path, np.repeat(np.repeat(picture, 4, axis=0), 4, axis=1))
    return path


def tile(images: NDArray[np.float32], columns: int) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [−1, 1], laid out in rows of ``columns`` with two pixels between: (rows·(H+2), columns·(W+2), 3).

    Raises:
        ValueError: not (N, 1 or 3, H, W), or no images.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"only images of shape (N, 1 or 3, H, W) can be drawn, got {images.shape}")
    bytes_ = np.clip(np.rint((np.nan_to_num(images) + 1) * 127.5), 0, 255).astype(np.uint8)
    _, _, height, width = bytes_.shape
    rows = -(-len(bytes_) // columns)
    canvas = np.full((rows * (height + 2), columns * (width + 2), 3), 255, dtype=np.uint8)
    for i, picture in enumerate(bytes_):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        canvas[y : y + height, x : x + width] = picture.transpose(1, 2, 0)
    return canvas


def drawable(study: Study) -> dict[str, NDArray[np.float32]]:
    """The first images of each row, by its label in the order of the rows, where they can be drawn; large ones made smaller."""
    kept = {row.label: study.images[row.label][:_MOST] for row in study.rows if row.label in study.images}
    return {name: _smaller(part) for name, part in kept.items() if part.ndim == 4 and part.shape[1] in (1, 3) and len(part)}


def _smaller(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The means of squares of pixels, so that no side is longer than 64."""
    count, channels, height, width = images.shape
    size = -(-max(height, width) // _LARGEST)
    if size == 1:
        return images
    cut = images[:, :, : height // size * size, : width // size * size]
    squares = cut.reshape(count, channels, height // size, size, width // size, size)
    means: NDArray[np.float32] = squares.mean(axis=(3, 5), dtype=np.float32)
    return means


def data_uri(images: NDArray[np.float32], columns: int = 8) -> str:
    """Images as one PNG picture that a page holds itself."""
    from matplotlib import image

    file = io.BytesIO()
    image.imsave(file, tile(images, min(columns, len(images))), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def draw_samples(study: Study) -> Figure:
    """A row for each configuration, a column for each seed."""
    shown = drawable(study)
    figure, axes = new_figure(0.2 + 0.36 * len(shown), narrow=False)
    strips = [tile(part, len(part)) for part in shown.values()]
    height = strips[0].shape[0]
    axes.imshow(np.concatenate(strips), interpolation="nearest")
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([height * (i + 0.5) for i in range(len(shown))], list(map(short, shown)))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure
