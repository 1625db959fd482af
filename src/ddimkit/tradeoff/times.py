"""Times of configurations, and how a round of a measurement is laid out so that a machine whose speed drifts bends none of them.

The calls of every configuration are spread over a round: call j of S falls at the fraction (j + ½)/S of the round. Short runs
are repeated within a round. The time of a run is the sum of its slices, and a speed-up is the ratio of two such sums. A slow minute
then falls on all configurations alike.

A slice is one call on the CPU, and a few calls where the host runs ahead of the device: the clock waits for the device, which would
otherwise idle after every call. Slices are the same for all configurations, since what a wait costs must cancel in their ratio.

The bound: at every moment of a round, the share of its calls that a configuration has done differs from the share of the round by
at most half a slice. A slice holds at most 1/50 of the calls, so the shares of two configurations differ by at most 1/50. Where the
machine's speed steps by a factor of 2, a speed-up errs by at most that difference: 2 %, wherever the step is. Under a smooth drift
most of these errors cancel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ddimkit.quality.estimate import Estimate

__all__ = [
    "PARTS",
    "T_95",
    "Costs",
    "Times",
    "Timing",
    "affordable_rounds",
    "calls_a_round",
    "round_order",
    "slices_of",
    "speedup",
]

PARTS = 10
"""Number of stretches that the measurement is cut into for spreads."""

T_95 = 2.262
"""Student's t of a 95 % interval from ``PARTS`` values."""

_POINTS = 50  # slices of a configuration in a round, at least


@dataclass(frozen=True)
class Costs:
    """What one run of a sampler costs beside the model's own time.

    Attributes:
        overhead_seconds: one run with a model that returns a constant tensor.
        peak_memory_bytes: most bytes that three steps held beyond what was there before; None where not measurable.
        peak_memory_note: how that was measured, or why it was not.
    """

    overhead_seconds: float
    peak_memory_bytes: int | None
    peak_memory_note: str


@dataclass(frozen=True)
class Times:
    """How long one run of a configuration takes.

    Attributes:
        seconds: one run of the whole batch: the mean over all runs.
        batch: number of images in the batch.
        parts: seconds of one run at the pace of each tenth of the measurement; their mean is ``seconds``. The same tenth of two
            configurations was measured during the same stretch of time.
        overhead_seconds: one run with a model that returns a constant tensor.
        peak_memory_bytes: most bytes that three steps held beyond what was there before; None where not measurable.
        peak_memory_note: how that was measured, or why it was not.
    """

    seconds: float
    batch: int
    parts: tuple[float, ...]
    overhead_seconds: float
    peak_memory_bytes: int | None
    peak_memory_note: str

    @property
    def per_sample_seconds(self) -> float:
        """Seconds of one run, a sample."""
        return self.seconds / self.batch

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the parts."""
        low, high = (float(v) for v in np.quantile(self.parts, [0.25, 0.75]))
        return low, high

    def scaled(self, factor: float) -> "Times":
        """Those of a run of ``factor`` times as many calls, in proportion."""
        return replace(self, seconds=factor * self.seconds, parts=tuple(factor * v for v in self.parts))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "parts": list(self.parts)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Times":
        """The times that :meth:`to_dict` wrote.

        Raises:
            ValueError: a field is missing, unknown or not finite.
        """
        try:
            fields: dict[str, Any] = {**data, "parts": tuple(float(v) for v in data["parts"])}
            found = cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no times of a configuration: {error}") from error
        numbers = (found.seconds, found.batch, found.overhead_seconds, *found.parts)
        if len(found.parts) != PARTS or not all(_is_amount(v) for v in numbers) or found.batch < 1:
            raise ValueError(f"times must be finite numbers of at least 0, with {PARTS} parts, got {dict(data)}")
        return found


def speedup(base: Times, other: Times) -> Estimate:
    """How many times faster ``other`` is than ``base``: the ratio of the times, with a 95 % interval from the paired parts.

    The interval is the jackknife's. What slows both during a tenth of the measurement leaves their ratio as it is, and the interval
    as narrow.
    """
    ratio = base.seconds / other.seconds
    above, below = np.asarray(base.parts), np.asarray(other.parts)
    without = (above.sum() - above) / (below.sum() - below)
    error = math.sqrt((PARTS - 1) / PARTS * float(((without - without.mean()) ** 2).sum()))
    return Estimate(ratio, max(0.0, ratio - T_95 * error), ratio + T_95 * error)


@dataclass(frozen=True, eq=False)
class Timing:
    """The finished rounds of a measurement: what :func:`measure` returns, and what it can go on from.

    Attributes:
        calls: model calls of one run of each configuration.
        batch: number of images in the batch.
        longest: most calls of a slice.
        costs: what each configuration costs beside the model's time.
        rounds: the seconds of each slice, by round, then by configuration.
        samples: (B, *) float32 images on the CPU that each configuration drew in its first run.
    """

    calls: tuple[int, ...]
    batch: int
    longest: int
    costs: tuple[Costs, ...]
    rounds: tuple[tuple[tuple[float, ...], ...], ...] = ()
    samples: tuple[Tensor, ...] = field(default=(), repr=False)

    def times(self) -> tuple[Times, ...]:
        """The times of each configuration."""
        return tuple(self._times(i) for i in range(len(self.calls)))

    def _times(self, i: int) -> Times:
        runs, sizes = slices_of(self.calls[i], self.longest)
        runs, sizes = runs * len(self.rounds), sizes * runs * len(self.rounds)
        done = np.cumsum([0, *sizes]) / sum(sizes)
        spent = np.cumsum([0.0, *(v for seconds in self.rounds for v in seconds[i])])
        parts = np.diff(np.interp(np.linspace(0, 1, PARTS + 1), done, spent)) * PARTS / runs
        return Times(float(spent[-1]) / runs, self.batch, tuple(float(v) for v in parts), **asdict(self.costs[i]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of everything but the samples."""
        plain = asdict(replace(self, samples=()))
        del plain["samples"]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], samples: Sequence[Tensor]) -> "Timing":
        """The rounds that :meth:`to_dict` wrote, with the samples kept beside them.

        Raises:
            ValueError: a field is missing, or the rounds are not those of such configurations.
        """
        try:
            calls, costs = tuple(int(v) for v in data["calls"]), tuple(Costs(**c) for c in data["costs"])
            rounds = tuple(tuple(tuple(float(v) for v in seconds) for seconds in a_round) for a_round in data["rounds"])
            found = cls(calls, int(data["batch"]), int(data["longest"]), costs, rounds, tuple(samples))
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no kept rounds of a measurement: {error}") from error
        counts = [runs * len(sizes) for runs, sizes in (slices_of(n, found.longest) for n in calls)]
        fits = all([len(seconds) for seconds in a_round] == counts for a_round in rounds)
        finite = all(_is_amount(v) for a_round in rounds for seconds in a_round for v in seconds)
        if not fits or not finite or {len(costs), len(samples)} != {len(calls)}:
            raise ValueError(f"the kept rounds are not whole: {len(calls)} configurations, {len(rounds)} rounds")
        return found


def slices_of(calls: int, longest: int) -> tuple[int, tuple[int, ...]]:
    """How a round walks a sampler of so many calls: the number of runs, and the calls of each slice of one run.

    Each slice holds at most ``longest`` calls, and at most 1/50 of the configuration's calls in the round.
    """
    size = min(calls, longest)
    whole, rest = divmod(calls, size)
    return -(-_POINTS * size // calls), (size,) * whole + ((rest,) if rest else ())


def calls_a_round(calls: Sequence[int], longest: int) -> int:
    """Model calls of one round over samplers of so many calls each."""
    return sum(slices_of(n, longest)[0] * n for n in calls)


def affordable_rounds(calls_per_round: int, seconds_a_call: float, limit: float = 240.0, most: int = 3) -> int:
    """As many rounds as end within ``limit`` seconds, but at least one and at most ``most``."""
    return max(1, min(most, int(limit // max(calls_per_round * seconds_a_call, 1e-9))))


def round_order(calls: Sequence[int], longest: int) -> list[tuple[int, int]]:
    """The slices of a round in order: (which configuration, number of calls).

    The middle of each slice falls at its own fraction of the configuration's calls. Where the slices of several configurations fall
    on one place, their order turns round from slice to slice, so that none comes first on average.
    """
    placed: list[tuple[float, int, int, int]] = []
    for i, (runs, sizes) in enumerate(slices_of(n, longest) for n in calls):
        before, total = 0, runs * sum(sizes)
        for k, size in enumerate(sizes * runs):
            placed.append(((2 * before + size) / (2 * total), i if k % 2 == 0 else -i, i, size))
            before += size
    return [(i, size) for _, _, i, size in sorted(placed)]


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
