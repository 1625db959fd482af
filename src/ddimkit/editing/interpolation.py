"""Images between two others."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ddimkit._numbers import number
from ddimkit.editing._common import checked_images, invertible, seeded_normal, seeds_of
from ddimkit.loop import Model
from ddimkit.noise import STREAM_X_T, SeedLike, sample_seeds
from ddimkit.sampling import PlanSampler
from ddimkit.step import work_dtype

__all__ = ["interpolate", "latents_of", "spherical"]


def interpolate(
    sampler: PlanSampler,
    model: Model,
    a: Tensor,
    b: Tensor,
    weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    between: Literal["latents", "images"] = "latents",
    seed: SeedLike | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Images between pairs of latents, or of images, which are inverted first: spherical interpolation at the start of sampling.

    Args:
        sampler: with eta 0 where the ends are to be met; for images a DDIMSampler that can invert.
        model: as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`.
        a: (B, \*) one end of each pair; :func:`latents_of` gives the latents of seeds.
        b: (B, \*) the other end.
        weights: (W,) of b, 0 at a and 1 at b.
        between: what a and b are.
        seed: of the sampler's own noise, which all images of a pair share.
        model_kwargs: further arguments of the model; a tensor of one entry a pair is given to each image of the pair.
        batch_size: how many images are drawn at once; None for all.
        progress: whether to show a progress bar.

    Returns:
        (W, B, \*) images.

    Raises:
        TypeError, ValueError: shapes that differ, weights that are not finite, a sampler that cannot invert, a model guided by
            CFG++ between images, and as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`; before the model is called.
    """
    a, b = checked_images(a, "a"), checked_images(b, "b")
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        raise ValueError(f"a and b must be alike, got {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}")
    if isinstance(weights, Tensor) or not isinstance(weights, Iterable):
        hint = ": give weights.tolist()" if isinstance(weights, Tensor) else ""
        raise TypeError(f"weights must be a sequence of numbers, as in (0, 0.5, 1), got {type(weights).__name__}{hint}")
    shares = [number(weight, "a weight") for weight in weights]
    if not shares or not all(math.isfinite(share) for share in shares):
        raise ValueError(f"weights must be finite numbers, as in (0, 0.5, 1), got {weights!r}")
    if between not in ("latents", "images"):
        raise ValueError(f"between must be 'latents' or 'images', got {between!r}")
    seeds, count = seeds_of(seed, a), len(shares)
    if between == "images":
        ddim = invertible(sampler)
        a, b = (ddim.invert(model, end, model_kwargs=model_kwargs, progress=progress) for end in (a, b))
    x = torch.cat([spherical(a, b, share) for share in shares])
    drawn = sampler.sample(
        model,
        x_T=x,
        seed=seeds * count,
        model_kwargs=_repeated(model_kwargs, len(a), count),
        batch_size=batch_size,
        progress=progress,
    )
    return drawn.reshape(count, *a.shape)


def spherical(a: Tensor, b: Tensor, weight: float) -> Tensor:
    r"""Spherical interpolation of each sample: :math:`\frac{\sin((1-w)\theta)}{\sin\theta} a + \frac{\sin(w\theta)}{\sin\theta} b`.

    θ is the angle between a and b. So normal noise keeps its norm. Where a and b point (nearly) along one line, the sum is
    :math:`(1-w)\,a + w\,b`. Weights 0 and 1 give a and b, bit for bit.

    Args:
        a: (B, \*).
        b: (B, \*) of a's shape.
        weight: w.

    Source: Shoemake, *Animating Rotation with Quaternion Curves*, 1985; Song et al. 2020, appendix D.5.
    """
    work = work_dtype(a)
    first, second = (end.to(work).reshape(len(end), -1) for end in (a, b))
    norms = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    cosine = (first * second).sum(dim=1) / norms.clamp_min(torch.finfo(work).tiny)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = (sine < 1e-3) | (norms == 0)
    safe = torch.where(straight, torch.ones_like(sine), sine)
    left, right = (
        torch.where(straight, torch.full_like(sine, share), (share * angle).sin() / safe)[:, None] for share in (1 - weight, weight)
    )
    return (first * left + second * right).reshape(a.shape).to(a.dtype)


def latents_of(seeds: Sequence[int], sample_shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    r"""The latents that sampling begins from with some seeds: (B, \*sample_shape), float32.

    Args:
        seeds: one a sample, as :meth:`PlanSampler.seeds <ddimkit.PlanSampler.seeds>` lists them.
        sample_shape: shape of one sample.
        device: where.

    Raises:
        TypeError, ValueError: a seed that is no int in [0, 2^63).
    """
    if not isinstance(seeds, Sequence):
        raise TypeError(f"seeds must be a sequence of one seed a sample, got {seeds!r}: sampler.seeds({seeds!r}, count) lists them")
    like = torch.empty(len(seeds), *sample_shape, dtype=torch.float32, device=device)
    return seeded_normal(sample_seeds(seeds, len(seeds)), 0, like, STREAM_X_T)


def _repeated(model_kwargs: Mapping[str, Any] | None, batch: int, count: int) -> dict[str, Any]:
    """Each tensor of one entry a sample once for every weight."""

    def each(value: Any) -> Any:
        per_sample = isinstance(value, Tensor) and value.ndim and len(value) == batch
        return torch.cat([value] * count) if per_sample else value

    return {name: each(value) for name, value in (model_kwargs or {}).items()}
