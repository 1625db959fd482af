"""A contest: contenders take turns, round after round, so that a change of the machine's speed falls on all of them."""

import gc
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from torch.utils.benchmark import timer

from ddimkit.tradeoff.fit import fit_power

_MOST_CALLS = 10_000
_NEAR = 0.01
_STRAIGHT = 0.9995


@dataclass(frozen=True)
class Contender:
    """What takes a turn.

    Args:
        run: the timed call; its value is dropped.
        units: how many steps, forwards or samples one call does; seconds are quoted for one.
    """

    run: Callable[[], object]
    units: int = 1


@dataclass(frozen=True)
class Ratio:
    """How two contenders compare: the median over rounds of the two times of one round, with its 95 % interval.

    Args:
        ratio: the median.
        low: lower end of the interval that the sign test gives; None for fewer than six rounds.
        high: its upper end.
        goal: what the ratio should not exceed, None for no goal.
    """

    ratio: float
    low: float | None = None
    high: float | None = None
    goal: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the goal was reached."""
        if self.goal is None:
            return ""
        if self.ratio <= self.goal:
            return "reached"
        return "reached within the interval" if self.low is not None and self.low <= self.goal else "not reached"

    def __str__(self) -> str:
        interval = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        goal = "" if self.goal is None else f", goal {self.goal:.3f}: {self.verdict}"
        return f"{self.ratio:.3f}{interval}{goal}"


@dataclass(frozen=True)
class Exponent:
    """How time grows with a size: ``time = constant · size^exponent``, through the medians.

    Args:
        exponent: the slope of log time against log size.
        r_squared: how much of the scatter the line explains.
        low: lower end of the 95 % interval of the median of the rounds' own slopes; None for fewer than six rounds.
        high: its upper end.
        goal: what the exponent should be to 0.01, with an R² of at least 0.9995; None for no goal.
    """

    exponent: float
    r_squared: float
    low: float | None = None
    high: float | None = None
    goal: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the goal was reached."""
        if self.goal is None:
            return ""
        near = abs(self.exponent - self.goal) <= _NEAR and self.r_squared >= _STRAIGHT
        return "reached" if near else "not reached"

    def __str__(self) -> str:
        interval = "" if self.low is None else f" (round by round {self.low:.4f} to {self.high:.4f})"
        goal = "" if self.goal is None else f"; goal {self.goal:.2f} ± {_NEAR} and R² ≥ {_STRAIGHT}: {self.verdict}"
        return f"{self.exponent:.4f}{interval}, R² {self.r_squared:.6f}{goal}"


@dataclass(frozen=True)
class Contest:
    """Seconds a unit of every contender, one entry a round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Median over rounds of the seconds a unit."""
        return statistics.median(self.seconds[name])

    def fastest(self, names: Iterable[str]) -> str:
        """The contender of the least median among some."""
        return min(names, key=self.median)

    def ratio(self, one: str, other: str, goal: float | None = None) -> Ratio:
        """Time of one over time of another, round by round."""
        ratios = [a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]
        low, high = median_interval(ratios) or (None, None)
        return Ratio(statistics.median(ratios), low, high, goal)

    def exponent(self, sizes: Mapping[str, float], goal: float | None = None) -> Exponent:
        """How the time of some contenders grows with their sizes, three different ones at least.

        Raises:
            ValueError: there are fewer.
        """
        through = fit_power(list(sizes.values()), [self.median(name) for name in sizes])
        if through is None:
            raise ValueError(f"an exponent needs three different sizes, got {list(sizes.values())}")
        rounds = zip(*(self.seconds[name] for name in sizes), strict=True)
        slopes = [line.slope for turns in rounds if (line := fit_power(list(sizes.values()), turns)) is not None]
        low, high = median_interval(slopes) or (None, None)
        return Exponent(through.slope, through.r_squared, low, high, goal)

    def figures(self) -> dict[str, dict[str, float]]:
        """Median and quartiles of every contender in microseconds a unit, for JSON."""
        return {name: _spread(seconds) for name, seconds in self.seconds.items()}


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    r"""The interval of the median that the sign test gives, exact for any continuous distribution; None for too few values.

    :math:`[x_{(k)}, x_{(n+1-k)}]` of the ordered values, with the largest k for which a binomial variable of n fair throws is
    below k with a probability of at most ``(1 - confidence) / 2``.
    """
    n, k, below = len(values), 0, 0
    outside = Fraction(str(1 - confidence)).limit_denominator(10**6)  # floats end at 2^1024
    while k < n and 2 * (below + math.comb(n, k)) <= outside * 2**n:
        below += math.comb(n, k)
        k += 1
    if k == 0:
        return None
    ordered = sorted(values)
    return ordered[k - 1], ordered[n - k]


def _spread(seconds: tuple[float, ...]) -> dict[str, float]:
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    return {"median_us": 1e6 * statistics.median(seconds), "low_us": 1e6 * low, "high_us": 1e6 * high}


def contest(contenders: Mapping[str, Contender], rounds: int, *, least: float = 0.0, clock: Callable[[], float] = timer) -> Contest:
    """Time contenders that take turns; every round begins with another of them.

    Args:
        contenders: by name. Each is run once beforehand, which compiles and warms up.
        rounds: turns of each.
        least: seconds that a turn should last; short calls are repeated within a turn.
        clock: seconds; the default waits for the device.
    """
    for contender in contenders.values():
        contender.run()
    calls = {name: _calls(contender, least, clock) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        gc.collect()  # else a turn pays for the garbage of those before it
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_turn(contenders[name], calls[name], clock))
    return Contest({name: tuple(values) for name, values in seconds.items()})


def _calls(contender: Contender, least: float, clock: Callable[[], float]) -> int:
    """How often to call a contender so that a turn lasts long enough."""
    if least <= 0:
        return 1
    once = contender.units * _turn(contender, 1, clock)
    return max(1, min(_MOST_CALLS, round(least / max(once, least / _MOST_CALLS))))


def _turn(contender: Contender, calls: int, clock: Callable[[], float]) -> float:
    """Seconds a unit of some calls in a row."""
    began = clock()
    for _ in range(calls):
        contender.run()
    return (clock() - began) / (calls * contender.units)


def case(name: str, found: Contest, ratios: Mapping[str, Ratio], fit: Exponent | None = None) -> dict[str, Any]:
    """Print what a contest found, and give it as JSON values."""
    print(name)
    for contender, figures in found.figures().items():
        print(f"  {contender:58} {figures['median_us']:12.1f} us ({figures['low_us']:.1f} to {figures['high_us']:.1f})")
    for pair, ratio in ratios.items():
        print(f"  {pair}: {ratio}")
    said = {"name": name, "figures": found.figures(), "ratios": {pair: asdict(ratio) for pair, ratio in ratios.items()}}
    if fit is None:
        return said
    print(f"  grows to the power of {fit}")
    return {**said, "fit": asdict(fit)}
