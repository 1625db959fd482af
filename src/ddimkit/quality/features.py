r"""From images to features: what is done to the pixels, by which network, and how both are named.

Every image is first rounded to the 256 values that a picture file can hold, as the reference images were: a distance between
rounded and unrounded images would measure the rounding as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddimkit.quality.statistics import FloatArray

__all__ = ["Extractor", "Rounding", "to_bytes"]

Rounding = Literal["uint8", "none"]


def to_bytes(images: Tensor) -> Tensor:
    r"""Images (B, \*) in [−1, 1] as unsigned bytes: clamped, then rounded to the nearest of 256 values, halves to even.

    Raises:
        TypeError: the images are not floating point.
        ValueError: they hold NaN or infinity.
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point numbers in [-1, 1], got {images.dtype}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images hold NaN or infinity")
    return images.to(torch.float32).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A function from images to features, with what names it in results.

    Args:
        extract: (B, C, H, W) float32 in [−1, 1] to features (B, d).
        name: a short name.
        sha256: hash of its weights: two extractors of one hash give comparable figures.
        classify: features (B, d) to scores of classes (B, K); None where there are no classes.
        rounding: ``"uint8"`` rounds images to 256 values first, ``"none"`` takes them as they are.
        device: where ``extract`` wants its images.

    Raises:
        ValueError: an unknown rounding, or no hash.
    """

    extract: Callable[[Tensor], Tensor]
    name: str
    sha256: str
    classify: Callable[[Tensor], Tensor] | None = None
    rounding: Rounding = "uint8"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.rounding not in ("uint8", "none"):
            raise ValueError(f"rounding must be 'uint8' or 'none', got {self.rounding!r}")
        if not self.sha256:
            raise ValueError("an extractor needs the hash of its weights: figures of different extractors must not be compared")
        if isinstance(self.extract, nn.Module) and self.extract.training:
            raise ValueError("the feature network is in train mode: call eval() first")

    @torch.no_grad()
    def __call__(self, images: Tensor | NDArray[np.uint8], *, batch_size: int = 250) -> FloatArray:
        """Features (N, d), float64, of images (N, C, H, W): floating point in [−1, 1], or unsigned bytes.

        Raises:
            ValueError: no images, a batch size below 1, or features that are not (B, d).
        """
        if batch_size < 1 or not len(images):
            raise ValueError(f"there must be images and a batch size of at least 1, got {len(images)} and {batch_size}")
        # An array is copied: torch warns of those that cannot be written to, as data sets are.
        found = [self._batch(_as_tensor(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
        return np.concatenate(found).astype(np.float64)

    def _batch(self, images: Tensor) -> NDArray[np.float32]:
        pixels = images
        if pixels.dtype is not torch.uint8 and self.rounding == "uint8":
            pixels = to_bytes(pixels)
        if pixels.dtype is torch.uint8:
            pixels = pixels.to(torch.float32).div(127.5).sub(1)
        features = self.extract(pixels.to(self.device, torch.float32))
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(f"extract must return (B, d) for B = {len(images)}, got shape {tuple(features.shape)}")
        return features.to("cpu", torch.float32).numpy()

    def count_classes(self, features: FloatArray) -> NDArray[np.int64]:
        """(K,): how many images there are of each class; empty where the extractor knows none."""
        if self.classify is None:
            return np.zeros(0, dtype=np.int64)
        count = self.classify(torch.zeros(1, features.shape[1], dtype=torch.float32, device=self.device)).shape[1]
        return np.bincount(self.classes(features), minlength=count)

    @torch.no_grad()
    def classes(self, features: FloatArray) -> NDArray[np.int64]:
        """(N,): the class of the highest score.

        Raises:
            ValueError: this extractor knows no classes.
        """
        if self.classify is None:
            raise ValueError(f"the extractor {self.name!r} knows no classes")
        scores = self.classify(torch.as_tensor(features, dtype=torch.float32, device=self.device))
        found: NDArray[np.int64] = scores.argmax(dim=1).cpu().numpy()
        return found


def _as_tensor(images: Tensor | NDArray[np.uint8]) -> Tensor:
    return images if isinstance(images, Tensor) else torch.from_numpy(images.copy())
