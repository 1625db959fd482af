"""A part of an image painted anew, by RePaint or by plain replacement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddimkit._arguments import Arguments
from ddimkit._numbers import integer
from ddimkit.editing._common import checked_images, seeded_normal, seeds_of
from ddimkit.errors import NonFiniteError
from ddimkit.loop import Model, ask, prepare, step_bar
from ddimkit.noise import STREAM_EDIT, SeedLike
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.step import check_output

__all__ = ["inpaint", "repaint_rows"]

_DRAWS = 3  # for each row that is done: of the known part, of the sampler, of the jump after it


def inpaint(
    sampler: PlanSampler,
    model: Model,
    images: Tensor,
    mask: Tensor,
    *,
    resample: int = 10,
    jump: int = 10,
    seed: SeedLike | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Paint a part of each image anew, and keep the rest (Lugmayr et al. 2022, algorithm 1).

    After each row the known part is replaced by the image with fresh noise of the row's next timestep. That alone,
    ``resample=1``, leaves a painted part that does not fit the known part. So after every ``jump`` rows noise is added to all of
    x, back to where these rows began, and they are done again, ``resample`` times in all. The painted part fits the known part less
    well with few steps or long jumps.

    Args:
        sampler: one that reads no earlier predictions, as DDIM and DDPM.
        model: as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`.
        images: (B, \*) in the model's range; where they are, the result is.
        mask: 1 where the image is painted anew, 0 where it is kept, what lies between mixes; broadcasts to the images.
        resample: r of the paper; 1 is plain replacement.
        jump: j of the paper, in rows.
        seed: as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`.
        model_kwargs: further arguments of the model.
        progress: whether to show a progress bar.

    Returns:
        (B, \*) images; where the mask is 0 they are the given ones, bit for bit.

    Raises:
        TypeError, ValueError: a mask of another shape or outside [0, 1], a sampler with history, ``resample`` or ``jump`` below 1,
            and as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`; before the model is called.
        NonFiniteError: the result holds NaN or infinity.
    """
    images = checked_images(images, "images")
    painted = _checked_mask(mask, images)
    plan = sampler.coefficients.plan
    if sampler.coefficients.needs or len(set(plan.t)) < len(plan.t):
        raise ValueError(f"inpainting needs a sampler of one step, but {type(sampler).__name__} reads earlier calls: take DDIM")
    rows = repaint_rows(len(plan), resample=resample, jump=jump)
    shape, seeds = tuple(images.shape), seeds_of(seed, images)
    arguments = Arguments(shape, seeds, device=images.device, dtype=images.dtype, model_kwargs=model_kwargs)
    run = prepare(sampler.coefficients, model, arguments)
    x = run.x
    with torch.no_grad(), step_bar(len(rows), progress) as tick:
        for visit, (k, following) in enumerate(zip(rows, [*rows[1:], len(plan)], strict=True)):
            known, z, again = (_Drawn(seeds, _DRAWS * visit + part, images) for part in range(_DRAWS))
            t = torch.full((len(x),), plan.t[k], dtype=torch.int64, device=x.device)
            output = check_output(ask(run.model, x, t), x, sampler.coefficients.learned)
            x = sampler.step(x, output, k, noise=z() if plan.c[k] else None)
            kept = _noised(sampler.schedule, images, plan.t_next[k], known)
            x = torch.where(painted == 0, kept, x * painted + kept * (1 - painted))  # a sum would lose the sign of −0
            if following <= k:
                x = _climbed(sampler.schedule, x, plan.t[k + 1], plan.t[following], again())
            tick()
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError("the inpainted images hold NaN or infinity; sample without a mask to learn at which step it begins")
    return x


def repaint_rows(count: int, *, resample: int = 10, jump: int = 10) -> list[int]:
    """The rows that :func:`inpaint` does, in their order, of a plan of ``count``: as many model calls.

    Args:
        count: rows of the plan.
        resample: how often each stretch is done.
        jump: rows of a stretch.

    Raises:
        TypeError, ValueError: ``resample`` or ``jump`` is no int of at least 1.

    >>> from ddimkit.editing import repaint_rows
    >>> repaint_rows(5, resample=2, jump=2)
    [0, 1, 0, 1, 2, 3, 2, 3, 4]
    """
    repeats, length = integer(resample, "resample"), integer(jump, "jump")
    if repeats < 1 or length < 1:
        raise ValueError(f"resample and jump must be at least 1, got {resample} and {jump}")
    left = dict.fromkeys(range(count - 1, length - 1, -length), repeats - 1)  # by the row that would come next
    rows, k = list[int](), 0
    while k < count:
        rows.append(k)
        k += 1
        if left.get(k, 0):
            left[k] -= 1
            k -= length
    return rows


@dataclass(frozen=True)
class _Drawn:
    """Editing noise of one draw, made at the first use."""

    seeds: tuple[int, ...]
    draw: int
    like: Tensor

    def __call__(self) -> Tensor:
        return seeded_normal(self.seeds, self.draw, self.like, STREAM_EDIT)


def _noised(schedule: NoiseSchedule, images: Tensor, t: int | None, noise: _Drawn) -> Tensor:
    """The images at a timestep; themselves at the end."""
    return images if t is None else schedule.add_noise(images, noise().to(images.dtype), t)


def _climbed(schedule: NoiseSchedule, x: Tensor, t: int, higher: int, noise: Tensor) -> Tensor:
    r"""X of timestep t at a higher one: :math:`\frac{s'}{s} x + \sqrt{n'^2 - (s'/s)^2 n^2}\, z`, as many small steps would."""
    ratio = float(schedule.signal[higher] / schedule.signal[t])
    spread = math.sqrt(max(0.0, schedule.noise[higher] ** 2 - (ratio * schedule.noise[t]) ** 2))
    return (x.to(noise.dtype) * ratio + noise * spread).to(x.dtype)


def _checked_mask(mask: object, images: Tensor) -> Tensor:
    """The mask in the images' dtype where they are."""
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(f"mask must be a tensor of numbers in [0, 1], got {mask.dtype if isinstance(mask, Tensor) else mask!r:.80}")
    widened = (1,) * (images.ndim - mask.ndim) + tuple(mask.shape)
    if len(widened) > images.ndim or any(m not in (1, n) for m, n in zip(widened, images.shape, strict=True)):
        raise ValueError(f"mask must broadcast to the images' {tuple(images.shape)}, got {tuple(mask.shape)}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask must lie in [0, 1], 1 where the image is painted anew: divide bytes by 255")
    return mask.detach().to(images.device, images.dtype)
