r"""How few steps are enough: a recommendation from a measured curve, with its reasons, or the word that the data cannot tell.

With D the distance to real images, D₀ the baseline's and F the floor (other real images' distance, :math:`\varepsilon` half the
width of its interval), a step count is *within* the tolerance where the 95 % interval of :math:`D - D_0`, paired by seeds, ends
below :math:`\text{tolerance} \cdot (D_0 - F + \varepsilon)`, *worse* where it begins above, and otherwise cannot be told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate
from ddimkit.quality.measure import Distance, Quality, difference
from ddimkit.tradeoff.findings import lines
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

__all__ = ["Recommendation", "Scale", "Verdict", "best_of", "percent_kept", "quality_kept", "recommend", "recommendations"]

_START = 100
_ENOUGH = 0.8


@dataclass(frozen=True)
class Verdict:
    """One step count beside the baseline.

    Attributes:
        label: the configuration.
        steps: its timesteps.
        excess: its distance less the baseline's.
        interval: the 95 % interval of that, paired by seeds.
        verdict: ``"within"``, ``"worse"`` or ``"cannot tell"``.
        kept: share of the baseline's quality that it keeps.
        kept_interval: the 95 % interval of that.
    """

    label: str
    steps: int
    excess: float
    interval: tuple[float, float]
    verdict: Literal["within", "worse", "cannot tell"]
    kept: float
    kept_interval: tuple[float, float]

    def keeps(self, share: float) -> bool:
        """Whether it is known to keep a share of the baseline's quality."""
        return self.kept_interval[0] >= share


@dataclass(frozen=True)
class Recommendation:
    """What to use, and why.

    Attributes:
        steps: the step count with its safety buffer; None where no count is known to be within the tolerance.
        bare: the smallest count found within the tolerance, without the buffer.
        sampler: name of the sampler's class.
        eta: of DDIM, None for a sampler without one.
        tolerance: allowed excess over the baseline, as a share of its distance above the floor.
        buffer: share of steps added.
        allowed: the largest allowed excess, in units of the distance.
        verdicts: what each step count of the line showed, by falling steps.
        balanced: the 80/20 point: the smallest count known to keep 80 % of the baseline's quality; None if none is.
        reasons: the same in sentences.
    """

    steps: int | None
    bare: int | None
    sampler: str
    eta: float | None
    tolerance: float
    buffer: float
    allowed: float
    verdicts: tuple[Verdict, ...]
    balanced: int | None
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "verdicts": [vars(v) for v in self.verdicts]}


def quality_kept(distance: float, baseline: float, floor: float, margin: float) -> float:
    r"""Share of the baseline's quality that is kept, :math:`(D_0 - F + \varepsilon) / (D - F + \varepsilon)`.

    Distances below the floor are taken as the floor.

    Args:
        distance: D.
        baseline: D₀.
        floor: F, other real images' distance.
        margin: ε, half the width of the floor's interval.
    """
    whole, here = max(baseline - floor, 0.0) + margin, max(distance - floor, 0.0) + margin
    return whole / here if here else 1.0


def percent_kept(share: float) -> str:
    """A share of quality that is kept, in words: what comes out better than the baseline keeps all of it."""
    return f"{min(share, 1.0):.0%}"


def recommend(
    curve: TradeoffCurve,
    *,
    tolerance: float = 0.05,
    buffer: float = 0.2,
    sampler: str | None = None,
    eta: float | None = None,
    distance: Distance = "kernel",
) -> Recommendation:
    """The smallest step count whose quality is within a tolerance of the baseline's, and a safety buffer.

    The search begins at 100 steps and goes down while the quality is known to be within the tolerance; where already 100 steps are
    not, it goes up. Of several samplers the one with the fewest steps is recommended.

    Args:
        curve: a sweep with quality, or a study.
        tolerance: allowed excess, as a share of the baseline's distance above the floor.
        buffer: share of steps added at the end, rounded up.
        sampler: only this sampler, by its class's name; all by default.
        eta: only this eta; all by default.
        distance: ``"kernel"``, or ``"frechet"`` where all counts were judged on equally many images.

    Raises:
        ValueError: tolerance or buffer out of range, or no configuration of that sampler and eta has a judged quality.
        DDIMKitError: the curve holds no quality of its baseline or floor.
    """
    found = [
        r
        for r in recommendations(curve, tolerance=tolerance, buffer=buffer, distance=distance)
        if sampler in (None, r.sampler) and eta in (None, r.eta)
    ]
    if not found:
        raise ValueError(f"nothing judged to recommend from: sampler {sampler!r}, eta {eta!r}")
    return best_of(found)


def best_of(found: Sequence[Recommendation]) -> Recommendation:
    """The recommendation with the fewest steps, of equals the one closer to the real images; where none has any, the closest."""
    return min(found, key=lambda r: (r.bare or math.inf, min(v.excess for v in r.verdicts if r.bare in (None, v.steps))))


def recommendations(
    curve: TradeoffCurve, *, tolerance: float = 0.05, buffer: float = 0.2, distance: Distance = "kernel"
) -> list[Recommendation]:
    """The recommendation of every sampler and eta by itself; :func:`recommend` says what the arguments are, and what is raised."""
    if not 0 < tolerance < math.inf or not 0 <= buffer < math.inf:
        raise ValueError(f"tolerance must be above 0 and buffer at least 0, got {tolerance} and {buffer}")
    if curve.floor is None:
        raise DDIMKitError("the curve has no floor: measure it with a yardstick, as `ddimkit sweep` does")
    scale = Scale(_quality_of(curve.baseline), curve.floor, distance, tolerance, buffer)
    judged = [[c for c in line if c.quality is not None] for line in lines(curve, every_eta=True)]
    return [_choose(line, scale, curve) for line in judged if line]


def _quality_of(c: ConfigurationResult) -> Quality:
    if c.quality is None:
        raise DDIMKitError(f"the quality of {c.label} is not known: take `--full`, or a study of this model")
    return c.quality


@dataclass(frozen=True, eq=False)
class Scale:
    """What every step count is held against.

    Args:
        base: the baseline's quality.
        floor: other real images'.
        distance: the distance compared by.
        tolerance: allowed excess, as a share of the baseline's distance above the floor.
        buffer: share of steps added at the end.
    """

    base: Quality
    floor: Quality
    distance: Distance = "kernel"
    tolerance: float = 0.05
    buffer: float = 0.2

    @property
    def margin(self) -> float:
        """Half the width of the floor's interval, ε."""
        low, high = self.floor.estimate(self.distance).interval()
        return (high - low) / 2

    @property
    def allowed(self) -> float:
        """The largest excess within the tolerance."""
        above = self.base.estimate(self.distance).value - self.floor.estimate(self.distance).value
        return self.tolerance * (max(above, 0.0) + self.margin)

    def buffered(self, steps: int, most: int) -> int:
        """The steps and their share for safety, rounded up; no more than ``most``."""
        return min(most, math.ceil(round(steps * (1 + self.buffer), 9)))

    def kept(self, quality: Quality) -> Estimate:
        """The share of the baseline's quality that is kept, each replicate beside the baseline's own."""
        here, base = quality.estimate(self.distance), self.base.estimate(self.distance)
        floor, margin = self.floor.estimate(self.distance).value, self.margin
        pairs = zip((here.value, *here.replicates), (base.value, *base.replicates), strict=True)
        value, *replicates = (quality_kept(distance, baseline, floor, margin) for distance, baseline in pairs)
        return Estimate(value, tuple(replicates))

    def verdict(self, label: str, steps: int, quality: Quality) -> Verdict:
        """One configuration beside the baseline."""
        excess = difference(quality, self.base, self.distance)
        low, high = excess.interval()
        verdict: Literal["within", "worse", "cannot tell"]
        verdict = "within" if high <= self.allowed else "worse" if low > self.allowed else "cannot tell"
        kept = self.kept(quality)
        return Verdict(label, steps, excess.value, (low, high), verdict, kept.value, kept.interval())


def _choose(line: Sequence[ConfigurationResult], scale: Scale, curve: TradeoffCurve) -> Recommendation:
    """The recommendation of one sampler and eta, its results by falling steps."""
    verdicts = tuple(scale.verdict(c.label, c.steps, _quality_of(c)) for c in line)
    last = _search(verdicts)
    bare = None if last is None else verdicts[last].steps
    steps = None if bare is None else scale.buffered(bare, curve.baseline.nfe)
    balanced = min((v.steps for v in verdicts if v.keeps(_ENOUGH)), default=None)
    reasons = (*_reasons(verdicts, last, steps, scale, curve), _balance(verdicts, balanced))
    first, given = line[0], (scale.tolerance, scale.buffer, scale.allowed)
    return Recommendation(steps, bare, first.sampler, first.eta, *given, verdicts, balanced, reasons)


def _search(verdicts: Sequence[Verdict]) -> int | None:
    """Index of the smallest count reached from 100 down by counts within the tolerance.

    Where 100 steps are not within it: the first that is going up, else the first that is going down.
    """
    within = [v.verdict == "within" for v in verdicts]
    start = max((i for i, v in enumerate(verdicts) if v.steps >= _START), default=0)
    if not within[start]:
        return next((i for i in [*range(start - 1, -1, -1), *range(start + 1, len(verdicts))] if within[i]), None)
    return next((i - 1 for i in range(start + 1, len(verdicts)) if not within[i]), len(verdicts) - 1)


def _reasons(verdicts: Sequence[Verdict], last: int | None, steps: int | None, scale: Scale, curve: TradeoffCurve) -> list[str]:
    base, share = curve.baseline.label, f"{100 * scale.tolerance:.3g} %"
    said = [
        f"The tolerance allows {scale.allowed:.3g} more than {base}: {share} of its distance above the floor and of the floor's "
        "interval."
    ]
    if last is not None:
        v = verdicts[last]
        said.append(
            f"{v.label} is within the tolerance: {_excess(v)}. With a buffer of {100 * scale.buffer:.3g} % that is {steps} steps."
        )
        said += [f"{w.label} is worse: {_excess(w)}." for w in verdicts[:last] if w.verdict == "worse"]
        said += [f"{v.label} is {_word(v)}: {_excess(v)}.{_more(v, scale, curve)}" for v in verdicts[last + 1 : last + 2]]
    elif all(v.verdict == "worse" for v in verdicts):
        best = min(verdicts, key=lambda v: v.excess)
        said.append(f"No step count is within it; the closest is {best.label}: {_excess(best)}.")
    else:
        unsure = min((v for v in verdicts if v.verdict == "cannot tell"), key=lambda v: v.excess)
        said.append(f"These samples cannot tell: {unsure.label} is at {_excess(unsure)}.{_more(unsure, scale, curve)}")
    return said


def _balance(verdicts: Sequence[Verdict], balanced: int | None) -> str:
    share = f"{_ENOUGH:.0%} of the baseline's quality"
    if balanced is not None:
        v = next(v for v in verdicts if v.steps == balanced)
        return f"{balanced} steps are the fewest known to keep {share}: {_kept(v)}."
    likely = min((v for v in verdicts if v.kept >= _ENOUGH), key=lambda v: v.steps, default=None)
    if likely is None:
        return f"No step count keeps {share}."
    return (
        f"No step count is known to keep {share}; by the figure alone {likely.steps} steps do: {_kept(likely)}. Take more samples."
    )


def _kept(v: Verdict) -> str:
    low, high = map(percent_kept, v.kept_interval)
    return f"{percent_kept(v.kept)} (95 % interval {low} to {high})"


def _excess(v: Verdict) -> str:
    low, high = v.interval
    nothing = ", no difference" if low <= 0 <= high else ""
    return f"{v.excess:+.3g} (95 % interval {low:+.3g} to {high:+.3g}{nothing})"


def _word(v: Verdict) -> str:
    return "outside" if v.verdict == "worse" else v.verdict if v.verdict == "within" else "undecided"


def _more(v: Verdict, scale: Scale, curve: TradeoffCurve) -> str:
    """How many samples would settle it if the figure stays and every interval narrows with their root."""
    if v.verdict != "cannot tell":
        return ""
    counts = [c.quality.count for c in curve.configurations if c.label == v.label and c.quality is not None]
    low, high = v.interval
    away = abs(scale.allowed - v.excess) or (high - low) / 4
    needed = math.ceil(counts[0] * max(1.0, (high - low) / 2 / away) ** 2)
    return f" Take more samples: about {needed:,}, of the baseline too, would tell if the figure stays."
