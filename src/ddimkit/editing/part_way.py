"""Sampling that begins with an image: after noise was added to it, or after it was inverted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddimkit._arguments import check_history
from ddimkit._numbers import number
from ddimkit._repr import short_repr
from ddimkit.editing._common import checked_images, invertible, seeded_normal, seeds_of
from ddimkit.loop import Model
from ddimkit.noise import STREAM_EDIT, SeedLike
from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.sampling import BarePlanSampler, PlanSampler
from ddimkit.step import work_dtype

__all__ = ["Reconstruction", "image_to_image", "reconstruct"]


def image_to_image(
    sampler: PlanSampler,
    model: Model,
    images: Tensor,
    *,
    strength: float = 0.5,
    seed: SeedLike | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Images that keep the coarse form of others: noise is added up to a timestep, and sampling begins there (SDEdit).

    Args:
        sampler: of whose S timesteps the last ``round(strength·S)``, at least one, are done; a half is rounded up.
        model: as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`.
        images: (B, \*) to begin from, in the model's range; where they are, the result is.
        strength: in (0, 1]: at 1 all timesteps are done, and little of the image is left.
        seed: as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`.
        model_kwargs: further arguments of the model.
        batch_size: how many samples are drawn at once; None for all.
        progress: whether to show a progress bar.

    Returns:
        (B, \*) images.

    Raises:
        TypeError, ValueError: images that are no floating point tensor, a strength outside (0, 1], a bare table that reads
            predictions of rows before the start, and as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`; before the
            model is called.
    """
    images, seeds = checked_images(images, "images"), seeds_of(seed, images)
    share = number(strength, "strength")
    if not 0 < share <= 1:
        raise ValueError(f"strength must lie in (0, 1], got {share}")
    start_at, t = start_of(sampler, share)
    eps = seeded_normal(seeds, 0, images, STREAM_EDIT)
    x = sampler.schedule.add_noise(images, eps.to(images.dtype), t)
    settings: dict[str, Any] = {"model_kwargs": model_kwargs, "batch_size": batch_size, "progress": progress}
    return sampler.sample(model, x_T=x, start_at=start_at, seed=seeds, **settings)


def start_of(sampler: PlanSampler, share: float) -> tuple[int, int]:
    """The ``start_at`` of a share of the timesteps, and the timestep."""
    S = len(sampler.timesteps)
    position = S - max(1, math.floor(share * S + 0.5))
    t = sampler.timesteps[position]
    if not isinstance(sampler, BarePlanSampler):
        return position, t
    row = sampler.coefficients.plan.t.index(t)  # a bare table starts at a row, and a timestep may have several
    try:
        check_history(sampler.coefficients_from(row), 0, 0, row)
    except ValueError as error:
        raise ValueError(f"strength={share} starts at row {row} of the table, but {error}: give strength=1") from None
    return row, t


@dataclass(frozen=True, eq=False)
class Reconstruction:
    r"""Images that were inverted and sampled again.

    Attributes:
        images: (B, \*) the result.
        latents: (B, \*) the latents between.
        errors: (B,) the mean squared difference of each image's numbers, with [−1, 1] scaled to [0, 1].
    """

    images: Tensor
    latents: Tensor
    errors: Tensor

    __repr__ = short_repr


def reconstruct(
    sampler: DDIMSampler, model: Model, images: Tensor, *, model_kwargs: Mapping[str, Any] | None = None, progress: bool = False
) -> Reconstruction:
    r"""Invert images to latents and sample from these: 2S model calls (Song et al. 2020, section 5.4).

    The error is what the paper's table 2 states of CIFAR-10: 0.014, 0.0065, 0.0023, 0.0009, 0.0004 and 0.0001 with 10, 20, 50, 100,
    200 and 500 steps.

    Args:
        sampler: with eta 0 and no clip.
        model: as for :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>`.
        images: (B, \*) in [−1, 1].
        model_kwargs: further arguments of the model.
        progress: whether to show progress bars.

    Raises:
        TypeError: the sampler is no DDIMSampler, or images are no floating point tensor.
        ValueError: eta is not 0, or clip is not None; a model guided by CFG++, whose scales are those of descending rows.
    """
    sampler = invertible(sampler)
    given = checked_images(images, "images")
    latents = sampler.invert(model, given, progress=progress, model_kwargs=model_kwargs)
    found = sampler.sample(model, x_T=latents, model_kwargs=model_kwargs, progress=progress)
    errors = ((found.to(work_dtype(given)) - given.to(work_dtype(given))) / 2).square().reshape(len(given), -1).mean(dim=1)
    return Reconstruction(found, latents, errors)
