r"""Noise that couples numbers of steps: the increments of one Brownian path over λ, keyed by each sample's seed.

Row k from λ to λ′ gets :math:`z = (W(\lambda') - W(\lambda)) / \sqrt{\lambda' - \lambda}`, with W the sample's own path. The
noises of a walk are standard normal and independent, as those that ``seed=`` draws. But the noise of a long row is made of the
noises of the short rows that a walk of more steps has in its place. So a sampler that adds noise draws like images at 10 and at 100
steps, and a preview with few steps can be refined.

The path is known at every timestep of the schedule: its end is drawn first, then the middle of an interval given both ends (Lévy's
construction), each from a draw of :data:`~ddimkit.noise.STREAM_BROWNIAN` that its place numbers.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddimkit.loop import NoiseFn
from ddimkit.noise import STREAM_BROWNIAN, STREAM_X_T, SeedLike, keyed_normal, seed_list
from ddimkit.plan import Plan
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import FloatArray
from ddimkit.step import work_dtype

__all__ = ["brownian_noise"]


def brownian_noise(sampler: PlanSampler, seeds: SeedLike) -> NoiseFn:
    """The ``noise_fn`` of a sampler: x_T as ``seed=`` draws it, and the increments of each sample's Brownian path.

    Args:
        sampler: the sampler that it is given to. Samplers of one schedule share the paths of a seed.
        seeds: one a sample; ``sampler.seeds(7, 16)`` lists those of one int.

    Raises:
        TypeError, ValueError: seeds that are no sequence of ints in [0, 2^63); a row that adds noise without going
            down. When called: a batch of another size.

    >>> from ddimkit import DDIMSampler, load_pretrained
    >>> from ddimkit.brownian import brownian_noise
    >>> mnist = load_pretrained("mnist")
    >>> sampler = mnist.sampler(DDIMSampler, steps=3, eta=1.0)
    >>> sampler.sample(mnist.model, (2, 1, 28, 28), noise_fn=brownian_noise(sampler, sampler.seeds(7, 2))).shape
    torch.Size([2, 1, 28, 28])
    """
    if not isinstance(sampler, PlanSampler):
        raise TypeError(f"sampler must be the sampler that the noise is for, got {type(sampler).__name__}")
    listed = seed_list(seeds)
    if isinstance(listed, int):
        raise TypeError(f"seeds must be a sequence of one seed a sample, got {listed}: sampler.seeds({listed}, count) lists them")
    plan = sampler.coefficients.plan
    _check_rows(plan)
    # Along the path time goes from the noise to the image: place p is timestep T − 1 − p.
    path = _Path(tuple(listed), sampler.schedule.log_snr[::-1] / 2)
    last = sampler.schedule.num_timesteps - 1

    def noise(draw: int, like: Tensor) -> Tensor:
        if len(like) != len(listed):
            raise ValueError(f"the noise is of {len(listed)} seeds, but the batch has {len(like)} samples: give one seed a sample")
        if draw < 0:
            return path.normal(0, like, STREAM_X_T)
        landed = plan.t_next[draw]
        return path.increment(last - plan.t[draw], last - (0 if landed is None else landed), like)

    return noise


def _check_rows(plan: Plan) -> None:
    """Raise for a noisy row along which a path has no increment; t=0 is also where the clean image is."""
    for row, (t, landed) in enumerate(zip(plan.t, plan.t_next, strict=True)):
        if plan.c[row] and t == (landed or 0):
            raise ValueError(
                f"row {row} adds noise but begins and ends at t={t}, where a Brownian path has no increment: give seed= instead"
            )


@dataclass(frozen=True, eq=False)
class _Path:
    """The Brownian paths of some seeds over the places of a schedule, 0 for the noisiest timestep.

    Attributes:
        seeds: one a sample.
        time: (T,) λ at each place; the first may be minus infinity.
    """

    seeds: tuple[int, ...]
    time: FloatArray
    known: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    keys: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor])

    def increment(self, start: int, end: int, like: Tensor) -> Tensor:
        """The standard normal increment from one place to another."""
        if math.isinf(self.time[start]):
            return self.normal(0, like)  # of a path without a beginning
        length = float(self.time[end] - self.time[start])
        before = self.known.get(start)
        before = self.at(start, like) if before is None or before.shape != like.shape else before
        after = self.at(end, like)
        self.known.clear()
        self.known[end] = after  # where the next row begins
        return (after - before) / math.sqrt(length)

    def at(self, place: int, like: Tensor) -> Tensor:
        """W at a place."""
        low, high = int(math.isinf(self.time[0])), len(self.time) - 1
        left = torch.zeros(like.shape, dtype=work_dtype(like), device=like.device)
        right = self.normal(high, like) * math.sqrt(max(0.0, float(self.time[high] - self.time[low])))
        while place not in (low, high):
            middle = (low + high) // 2
            whole, part = float(self.time[high] - self.time[low]), float(self.time[middle] - self.time[low])
            spread = math.sqrt(part * (whole - part) / whole)
            at = torch.lerp(left, right, part / whole) + self.normal(middle, like) * spread
            low, high, left, right = (middle, high, at, right) if place >= middle else (low, middle, left, at)
        return left if place == low else right

    def normal(self, draw: int, like: Tensor, stream: int = STREAM_BROWNIAN) -> Tensor:
        """A keyed standard normal of like's shape."""
        if like.device not in self.keys:
            self.keys[like.device] = torch.tensor(self.seeds, dtype=torch.int64, device=like.device)
        draws = torch.full((1,), draw, dtype=torch.int64, device=like.device)
        return keyed_normal(self.keys[like.device], draws, like.shape[1:], stream=stream)[0].to(work_dtype(like))
