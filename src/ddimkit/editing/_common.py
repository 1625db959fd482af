"""What all editing functions check and draw."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddimkit.noise import SeedLike, fresh_seed, keyed_normal, sample_seeds
from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.step import check_image, work_dtype

__all__ = ["checked_images", "invertible", "seeded_normal", "seeds_of"]


def seeded_normal(seeds: Sequence[int], draw: int, like: Tensor, stream: int) -> Tensor:
    r"""(B, \*) keyed noise in the working dtype."""
    keys, draws = (torch.tensor(values, dtype=torch.int64, device=like.device) for values in (list(seeds), [draw]))
    return keyed_normal(keys, draws, like.shape[1:], stream=stream)[0].to(work_dtype(like))


def seeds_of(seed: SeedLike | None, images: Tensor) -> tuple[int, ...]:
    """One seed a sample; where none is given, of one that the operating system gives."""
    return sample_seeds(fresh_seed() if seed is None else seed, len(images))


def checked_images(images: Tensor, name: str) -> Tensor:
    """The images, or an error where they are no finite floating point numbers."""
    check_image(images, name)
    if not images.ndim:
        raise ValueError(f"{name} must be (B, ...), got shape ()")
    if not bool(torch.isfinite(images).all()):
        raise ValueError(f"{name} hold NaN or infinity")
    return images.detach()


def invertible(sampler: object) -> DDIMSampler:
    """The sampler, or a TypeError or ValueError where it cannot invert images."""
    if not isinstance(sampler, DDIMSampler):
        raise TypeError(f"only a DDIMSampler can invert images, got {type(sampler).__name__}")
    if sampler.eta != 0 or sampler.clip is not None:
        raise ValueError(f"only eta=0 without clip can be inverted, got eta={sampler.eta} and clip={sampler.clip}")
    return sampler
