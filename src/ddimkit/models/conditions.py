"""What a conditional model is given for a sample of a seed, and how the latents of a latent model become images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ddimkit._numbers import number, sizes

__all__ = ["Conditions", "Decode", "check_conditions", "check_images", "describe_labels", "latent_decoder", "seed_labels"]

Conditions = Callable[[Sequence[int]], Mapping[str, Any]]
"""A function of seeds, one a sample, that gives the model's further arguments. Tensors have the batch first."""

Decode = Callable[[Tensor], Tensor]
r"""Latents (B, \*) to images (B, \*)."""


def seed_labels(classes: int, name: str = "labels") -> Conditions:
    """Conditions of a class-conditional model: a sample's label is its seed modulo the number of classes.

    Args:
        classes: number of labels that are drawn, a label for "no label" not counted.
        name: what the model calls the argument.

    >>> from ddimkit.models.conditions import seed_labels
    >>> seed_labels(10)([7, 23])
    {'labels': tensor([7, 3])}
    """
    return _SeedLabels(sizes((classes,), "classes", "above 0")[0], name)


@dataclass(frozen=True)
class _SeedLabels:
    """What :func:`seed_labels` gives: a value, which pickles and compares."""

    classes: int
    name: str

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, got {self.classes}")

    def __call__(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        return {self.name: torch.tensor([seed % self.classes for seed in seeds], dtype=torch.int64)}


def describe_labels(conditions: Conditions | None) -> dict[str, Any] | None:
    """The arguments of :func:`seed_labels` that give these conditions, as JSON values; None for no conditions.

    Raises:
        TypeError: other conditions, which a file cannot keep.
    """
    if conditions is None:
        return None
    if not isinstance(conditions, _SeedLabels):
        raise TypeError(f"only conditions that seed_labels gives can be saved, got {conditions!r:.80}")
    return asdict(conditions)


def latent_decoder(decode: Decode, *, scaling_factor: float = 1.0, shift_factor: float = 0.0) -> Decode:
    r"""The ``decode=`` of a model that draws scaled latents: ``decode(z / scaling_factor + shift_factor)``.

    Args:
        decode: (B, \*) latents to (B, \*) images: a VAE's decoder, unwrapped to give a tensor.
        scaling_factor: what latents were multiplied by for training, as in 0.18215; not 0.
        shift_factor: what was subtracted from them before.

    Raises:
        ValueError: a factor that is 0 or not finite.
    """
    scale, shift = number(scaling_factor, "scaling_factor"), number(shift_factor, "shift_factor")
    if not scale or not math.isfinite(scale) or not math.isfinite(shift):
        raise ValueError(f"scaling_factor must be finite and not 0, and shift_factor finite, got {scale} and {shift}")
    return _LatentDecoder(decode, scale, shift)


@dataclass(frozen=True, eq=False)
class _LatentDecoder:
    """What :func:`latent_decoder` gives."""

    decode: Decode
    scale: float
    shift: float

    def __call__(self, latents: Tensor) -> Tensor:
        return self.decode(latents / self.scale + self.shift)


def check_conditions(given: object, batch: int) -> Mapping[str, Any]:
    """What conditions give for a batch, or an error: each tensor has one entry a sample."""
    if not isinstance(given, Mapping):
        raise TypeError(f"conditions(seeds) must give a mapping of names to arguments, got {type(given).__name__}")
    for name, value in given.items():
        if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != batch):
            raise ValueError(
                f"conditions(seeds) must give one entry a sample: for {batch} seeds {name} has the shape {tuple(value.shape)}, "
                f"not ({batch}, ...); bind to the model what all samples share"
            )
    return given


def check_images(images: object, latents: Tensor) -> Tensor:
    """What ``decode`` gives for a batch of latents, or an error."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"decode must give a floating point tensor, got {found}: if it wraps its tensor, unwrap it")
    if not images.ndim or len(images) != len(latents):
        raise ValueError(f"decode must give one image a sample, {len(latents)} of them, got shape {tuple(images.shape)}")
    return images
