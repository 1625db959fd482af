"""What a search of timesteps makes small: errors on Gaussians, distances to many-step images, distances to real images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from ddimkit.analytic import Gaussian, error_of
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.estimate import Estimate, estimate_kernel, estimate_mean
from ddimkit.quality.evaluator import Evaluator
from ddimkit.quality.features import Extractor
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import FloatArray

__all__ = ["GaussianObjective", "NetworkObjective", "Objective", "QualityObjective"]


class Objective(Protocol):
    """What a search makes small."""

    def value(self, sampler: PlanSampler) -> float:
        """How far a sampler's result is from what it should be."""
        ...

    def gain(self, sampler: PlanSampler, than: PlanSampler) -> tuple[float, float]:
        """The interval of how much smaller a sampler's value is than another's, on data that :meth:`value` does not use."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianObjective:
    """The exact error of a sampler on normal data: no model is asked, and a list takes a second.

    What it finds need not hold for a real network: see :class:`NetworkObjective`.

    Args:
        mean: (D,) or (), of the data along the eigenvectors of its covariance.
        spectrum: (D,) eigenvalues of the covariance.
        count: (D,) for how many directions each stands; 1 by default.
        bins: the search takes eigenvalues of like size together, in so many groups; the gain is by every eigenvalue as given.
    """

    mean: Any
    spectrum: Any
    count: Any = None
    bins: int = 192

    @cached_property
    def _whole(self) -> Gaussian:
        return Gaussian(self.mean, self.spectrum, self.count)

    @cached_property
    def _binned(self) -> Gaussian:
        return self._whole.binned(self.bins)

    def value(self, sampler: PlanSampler) -> float:
        """The squared Fréchet distance, eigenvalues binned."""
        return error_of(sampler.coefficients.plan, self._binned, sampler.schedule).frechet

    def gain(self, sampler: PlanSampler, than: PlanSampler) -> tuple[float, float]:
        """The difference by the eigenvalues as given: exact for them, so an interval of no width."""
        mine, other = (error_of(s.coefficients.plan, self._whole, s.schedule).frechet for s in (sampler, than))
        return other - mine, other - mine


@dataclass(frozen=True, eq=False)
class NetworkObjective:
    """How far a model's few-step images are from the many-step ones of the same noise, in pixels or in features.

    Args:
        bundle: the model.
        seeds: of the images that the search looks at.
        unseen: of those that decide whether it gained.
        fine_steps: steps of the images to come close to, at most all, drawn by the same sampler with trailing spacing.
        extractor: whose features are compared; pixels if None.
        device: where the model runs.
        batch: images drawn at once.

    Raises:
        ValueError: no seeds, or seeds that are in both; a batch below 1; when asked, a sampler that adds noise.
    """

    bundle: ModelBundle
    seeds: Sequence[int] = range(32)
    unseen: Sequence[int] = range(1000, 1064)
    fine_steps: int = 200
    extractor: Extractor | None = None
    device: torch.device | str = "cpu"
    batch: int = 64
    _fine: dict[Any, FloatArray] = field(default_factory=dict[Any, FloatArray], init=False, repr=False)

    def __post_init__(self) -> None:
        _check_drawing(self.seeds, self.unseen, self.batch)
        check_device(self.device)

    def value(self, sampler: PlanSampler) -> float:
        """The mean distance over ``seeds``."""
        return float(self._apart(sampler, unseen=False).mean())

    def gain(self, sampler: PlanSampler, than: PlanSampler) -> tuple[float, float]:
        """The 95 % interval over ``unseen``, paired by seeds."""
        return self.difference(sampler, than).interval

    def difference(self, sampler: PlanSampler, than: PlanSampler) -> Estimate:
        """How much larger the other's distance is, over ``unseen``."""
        apart = self._apart(than, unseen=True) - self._apart(sampler, unseen=True)
        return estimate_mean(apart, self.unseen)

    def _apart(self, sampler: PlanSampler, *, unseen: bool) -> FloatArray:
        """(N,): the root mean square difference from the fine image of the same seed; squares would let the few furthest decide."""
        if sampler.coefficients.plan.adds_noise:
            raise ValueError("a sampler that adds noise draws another image at every number of steps: search with eta=0")
        steps = min(self.fine_steps, sampler.schedule.num_timesteps)
        fine = replace(sampler, steps=steps, timesteps=(), spacing="trailing")
        key = (fine, unseen)
        if key not in self._fine:
            self._fine[key] = self._seen(fine, unseen=unseen)
        apart: FloatArray = np.sqrt(np.mean((self._seen(sampler, unseen=unseen) - self._fine[key]) ** 2, axis=1))
        return apart

    def _seen(self, sampler: PlanSampler, *, unseen: bool) -> FloatArray:
        seeds = self.unseen if unseen else self.seeds
        return _draw(sampler, self.bundle, seeds, self.extractor, self.batch, self.device)


@dataclass(frozen=True, eq=False)
class QualityObjective:
    """The kernel distance of a model's few-step images from real ones, which evaluates them in the end.

    It asks for more images than :class:`NetworkObjective`. In return it searches for samplers that add noise too, and what it finds
    may be better than many steps of the same sampler.

    Args:
        bundle: the model.
        evaluator: the real images and the features; take others than those that evaluate the timesteps afterwards.
        seeds: of the images that the search looks at.
        unseen: of those that decide whether it gained.
        batch: images drawn at once.
        device: where the model runs.

    Raises:
        ValueError: no seeds, or seeds that are in both; a batch below 1. When asked, fewer than two seeds, or one twice.
    """

    bundle: ModelBundle
    evaluator: Evaluator
    seeds: Sequence[int] = range(256)
    unseen: Sequence[int] = range(1000, 1512)
    batch: int = 64
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        _check_drawing(self.seeds, self.unseen, self.batch)
        check_device(self.device)

    def value(self, sampler: PlanSampler) -> float:
        """The distance over ``seeds``."""
        return self._distance(sampler, self.seeds).value

    def gain(self, sampler: PlanSampler, than: PlanSampler) -> tuple[float, float]:
        """The 95 % interval over ``unseen``, paired by seeds."""
        return (self._distance(than, self.unseen) - self._distance(sampler, self.unseen)).interval

    def _distance(self, sampler: PlanSampler, seeds: Sequence[int]) -> Estimate:
        features = _draw(sampler, self.bundle, seeds, self.evaluator.extractor, self.batch, self.device)
        reference = self.evaluator.reference
        return estimate_kernel(features, reference.kernel, seeds, reference.real)


def _check_drawing(seeds: Sequence[int], unseen: Sequence[int], batch: int) -> None:
    if not seeds or not unseen or set(seeds) & set(unseen):
        raise ValueError("seeds and unseen must hold seeds, and none in common: what was searched on proves nothing")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")


def _draw(
    sampler: PlanSampler,
    bundle: ModelBundle,
    seeds: Sequence[int],
    extractor: Extractor | None,
    batch: int,
    device: torch.device | str,
) -> FloatArray:
    """(N, d): the features of the images of some seeds, their pixels where there is no extractor."""
    found = list[FloatArray]()
    for first in range(0, len(seeds), batch):
        part = list(seeds[first : first + batch])
        images = bundle.draw(sampler, part, device=device)
        if extractor is None:
            found.append(images.reshape(len(part), -1).to("cpu", torch.float64).numpy())
        else:
            found.append(extractor(images))
    return np.concatenate(found)
