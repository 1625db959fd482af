"""What ``ddimkit sample`` draws with: a label, guidance, an image to begin from and a mask of what is painted anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from ddimkit._modes import modules_of
from ddimkit.editing import image_to_image, inpaint, repaint_rows
from ddimkit.editing.part_way import start_of
from ddimkit.models.bundle import ModelBundle
from ddimkit.models.conditions import Conditions, describe_labels
from ddimkit.models.unet import UNet
from ddimkit.sampling import PlanSampler

__all__ = ["Edit", "FromImageOption", "GuidanceOption", "LabelOption", "MaskOption", "StrengthOption", "conditioned", "read_edit"]

GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", help="Scale of classifier-free guidance; 1 is the conditional model itself.")
]
LabelOption = Annotated[int | None, typer.Option("--label", help="Label of all samples; by default it follows from the seed.")]
FromImageOption = Annotated[
    Path | None,
    typer.Option("--from-image", help="Begin from this image: a .png of the model's size, or a .npy (C, H, W) in [−1, 1]."),
]
StrengthOption = Annotated[
    float | None, typer.Option("--strength", help="Share of the steps that --from-image is given, in (0, 1]; 0.5 by default.")
]
MaskOption = Annotated[
    Path | None,
    typer.Option("--mask", help="Paint anew where this .png is white, or this .npy is 1, and keep the rest of --from-image."),
]

_STRENGTH = 0.5


@dataclass(frozen=True, eq=False)
class Edit:
    """How images are drawn from others.

    Attributes:
        image: (1, C, H, W) or (N, C, H, W).
        mask: what broadcasts with it; None where all of it is drawn from ``strength`` on.
        strength: share of the steps.
    """

    image: Tensor
    mask: Tensor | None
    strength: float

    def draw(
        self, sampler: PlanSampler, bundle: ModelBundle, seeds: Sequence[int], device: torch.device, batch_size: int, show: bool
    ) -> Tensor:
        """An image a seed, in batches."""
        found = list[Tensor]()
        for first in range(0, len(seeds), batch_size):
            part = seeds[first : first + batch_size]
            images = self.image if len(self.image) == 1 else self.image[first : first + batch_size]
            images = images.expand(len(part), *images.shape[1:]).to(device)
            given: dict[str, Any] = {"seed": part, "model_kwargs": bundle.model_kwargs(part, device), "progress": show}
            if self.mask is None:
                found.append(image_to_image(sampler, bundle.model, images, strength=self.strength, **given))
            else:
                found.append(inpaint(sampler, bundle.model, images, self.mask, **given))
        return torch.cat(found)

    def record(self, sampler: PlanSampler, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
        """What reproduces the edit beside its options: the sampler's record with the rows that are done."""
        if self.mask is None:
            return sampler.record(shape, seed=seed, start_at=start_of(sampler, self.strength)[0])
        return {**sampler.record(shape, seed=seed), "nfe": len(repaint_rows(sampler.nfe))}


def conditioned(bundle: ModelBundle, label: int | None, guidance: float | None) -> ModelBundle:
    """The bundle with one label for all samples, and with guidance.

    Raises:
        ValueError: a model without labels, a label out of range, a model that cannot be guided.
    """
    if label is not None:
        names = [
            name for name, value in bundle.model_kwargs([0]).items() if isinstance(value, Tensor) and value.dtype == torch.int64
        ]
        if len(names) != 1:
            raise ValueError(f"--label: the model {bundle.name!r} takes no labels")
        _check_label(bundle, names[0], label)
        assert bundle.conditions is not None
        bundle = replace(bundle, conditions=_one_label(bundle.conditions, names[0], label))
    return bundle if guidance is None else bundle.guided(guidance)


def _one_label(conditions: Conditions, name: str, label: int) -> Callable[[Sequence[int]], dict[str, Any]]:
    def same(seeds: Sequence[int]) -> dict[str, Any]:
        given = conditions(seeds)
        return {**given, name: torch.full_like(given[name], label)}

    return same


def _check_label(bundle: ModelBundle, name: str, label: int) -> None:
    counts = [m.config.num_classes for whole in modules_of(bundle.model) for m in whole.modules() if isinstance(m, UNet)]
    most = min((count for count in (*counts, _classes(bundle)) if count), default=None)
    if label < 0 or (most is not None and label >= most):
        raise ValueError(f"--label must lie in 0..{'' if most is None else most - 1}, got {label}")
    none = (bundle.unconditional or {}).get(name)
    if none is not None and torch.equal(torch.as_tensor(none).reshape(-1), torch.tensor([label])):
        raise ValueError(f"--label {label} stands for no label in the model {bundle.name!r}: give another one")


def _classes(bundle: ModelBundle) -> int | None:
    """How many labels the bundle's own conditions draw, where they are known to be labels."""
    try:
        found = describe_labels(bundle.conditions)
    except TypeError:
        return None
    return None if found is None else int(found["classes"])


def read_edit(bundle: ModelBundle, image: Path | None, mask: Path | None, strength: float | None, count: int) -> Edit | None:
    """The edit that the options describe; None where they name no image.

    Raises:
        ValueError: options that do not go together, files of another kind or size, numbers out of range.
    """
    if image is None:
        if mask is not None or strength is not None:
            raise ValueError(f"{'--mask' if mask is not None else '--strength'} needs --from-image")
        return None
    if bundle.decode is not None:
        raise ValueError(
            f"--from-image: the model {bundle.name!r} draws latents: encode the image and use ddimkit.editing from Python"
        )
    if mask is not None and strength is not None:
        raise ValueError("--strength does not go with --mask: what is painted anew is painted from noise")
    share = _STRENGTH if strength is None else strength
    if not 0 < share <= 1:
        raise ValueError(f"--strength must lie in (0, 1], got {share}")
    shape = bundle.sample_shape
    found = _fitted(_read(image, "--from-image"), shape, image) if image.suffix == ".npy" else _picture(image, shape) * 2 - 1
    if len(found) not in (1, count) or not np.isfinite(found).all() or np.abs(found).max() > 1:
        raise ValueError(f"--from-image {image} must hold one image, or --num of them, of numbers in [−1, 1], got {found.shape}")
    shown = None if mask is None else _mask(mask, shape)
    return Edit(torch.from_numpy(found), None if shown is None else torch.from_numpy(shown), share)


def _read(path: Path, option: str, kinds: str = "f") -> NDArray[np.float32]:
    """The numbers of a .npy file, or of a .png in [0, 1]: (H, W) or (H, W, channels)."""
    if path.suffix not in (".png", ".npy"):
        raise ValueError(f"{option} must be a .png or a .npy file, got {path}")
    if not path.is_file():
        raise ValueError(f"{option} {path}: there is no such file")
    if path.suffix == ".npy":
        numbers: NDArray[Any] = _loaded(path, option, lambda: np.load(path, allow_pickle=False))
        if not isinstance(numbers, np.ndarray):
            raise ValueError(f"{option} {path} must hold one array, as numpy.save writes it")
        if numbers.dtype.kind not in kinds:
            raise ValueError(f"{option} {path} must hold floating point numbers, got {numbers.dtype}")
        return numbers.astype(np.float32)
    from matplotlib import image

    picture: NDArray[np.float32] = np.array(_loaded(path, option, lambda: image.imread(path)), dtype=np.float32)
    return picture


def _loaded(path: Path, option: str, load: Callable[[], Any]) -> Any:
    """What a file holds, or an error of one line where it is of another kind or cut short."""
    try:
        return load()
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        raise ValueError(f"{option} {path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from None


def _picture(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A .png as (1, *shape) in [0, 1], its colours averaged, or its grey repeated, where the model has other channels."""
    picture = _read(path, "--from-image")
    colours = (picture[..., None] if picture.ndim == 2 else picture[..., :3]).transpose(2, 0, 1)
    if len(shape) == 3 and len(colours) != shape[0]:
        colours = np.repeat(colours.mean(axis=0, keepdims=True), shape[0], axis=0)
    return _fitted(colours, shape, path)


def _mask(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(1, H, W) in [0, 1]."""
    found = _read(path, "--mask", "fbu")
    if path.suffix == ".png" and found.ndim == 3:
        found = found[..., :3].mean(axis=2)
    if found.shape[-2:] != shape[-2:] or found.ndim > 3 or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"--mask {path} must be {shape[-2:]} of numbers in [0, 1], got {found.shape}")
    return found


def _fitted(images: NDArray[np.float32], shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    """Images (N, *shape) of one or several."""
    if images.shape[-len(shape) :] != shape or images.ndim not in (len(shape), len(shape) + 1):
        raise ValueError(f"--from-image {path} must have the model's shape {shape}, got {images.shape}: scale it first")
    return images.reshape(-1, *shape)
