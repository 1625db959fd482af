"""What a curve says of quality, in sentences computed from its numbers; every one can come out either way."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ddimkit.quality.estimate import Estimate
from ddimkit.quality.measure import Quality, difference
from ddimkit.schedule import FloatArray
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

__all__ = ["FEWEST_RANKED", "figure_with_interval", "quality_findings", "rank_correlation", "scale"]

FEWEST_RANKED = 4
"""Below so many configurations a rank correlation says nothing."""
_EQUAL = 1e-9


def quality_findings(curve: TradeoffCurve, lines: Sequence[Sequence[ConfigurationResult]]) -> list[str]:
    """The findings on quality; none where nothing was judged.

    Args:
        curve: the sweep.
        lines: each sampler and eta by falling steps.
    """
    judged = [kept for line in lines if (kept := [c for c in line if c.quality is not None])]
    if not judged:
        return []
    said = [scale(curve)]
    for line in judged:
        said += [_beside_baseline(curve, line), _more_steps(line)]
    said += [_etas(judged), _predicted([c for line in judged for c in line]), _narrower(curve)]
    return [s for s in said if s is not None]


def figure_with_interval(quality: Quality | None) -> str:
    """The kernel distance and its 95 % interval, as text; a dash where it is not known."""
    if quality is None:
        return "–"
    low, high = quality.kernel.interval()
    return f"{quality.kernel.value:.3g} ({low:.3g} to {high:.3g})"


def scale(curve: TradeoffCurve) -> str | None:
    """What every figure is to be seen beside: other real images, the baseline and noise; None where no end is known."""
    parts = [f"{name} {end.kernel.value:.3g}" for name, end in (("other real images", curve.floor), ("noise", curve.noise)) if end]
    if not parts:
        return None
    base = curve.baseline
    parts.insert(1, f"{base.label} {'not judged' if base.quality is None else figure_with_interval(base.quality)}")
    return f"Kernel distance to real images, the scale: {', '.join(parts)}."


def _name(line: Sequence[ConfigurationResult]) -> str:
    first = line[0]
    name = first.sampler.removesuffix("Sampler").replace("_", "-")
    return name if first.eta is None else f"{name} with eta {first.eta:g}"


def _beside_baseline(curve: TradeoffCurve, line: Sequence[ConfigurationResult]) -> str | None:
    base = curve.baseline.quality
    if base is None:
        return None
    groups: dict[str, list[str]] = {"better": [], "no difference": [], "worse": []}
    for c in reversed(line):
        assert c.quality is not None
        apart = difference(c.quality, base)
        if apart.is_zero:  # which few images say of much
            groups["no difference"].append(f"{c.steps} (±{_half_width(apart):.1g})")
        else:
            groups["worse" if apart.value > 0 else "better"].append(str(c.steps))
    named = "; ".join(f"{what} at {', '.join(steps)}" for what, steps in groups.items() if steps)
    return f"{_name(line)} beside {curve.baseline.label}: {named} steps."


def _more_steps(line: Sequence[ConfigurationResult]) -> str | None:
    """Where some smaller count is clearly closer to the real images: the closest of them is named."""
    against = []
    for i, more in enumerate(line):
        fewer = min(line[i + 1 :], key=_kernel, default=None)
        if fewer is not None and more.quality is not None and fewer.quality is not None:
            apart = difference(more.quality, fewer.quality)
            if apart.interval()[0] > 0:
                against.append(f"{more.steps} steps are worse than {fewer.steps} by {apart.value:.2g}")
    return f"More steps are not better everywhere for {_name(line)}: {'; '.join(against)}." if against else None


def _kernel(c: ConfigurationResult) -> float:
    return math.inf if c.quality is None else c.quality.kernel.value


def _etas(lines: Sequence[Sequence[ConfigurationResult]]) -> str | None:
    """At each step count, what beats and what loses to eta 0 of the same sampler."""
    plain = {(c.sampler, c.steps): c for line in lines for c in line if c.eta == 0}
    better, worse, equal = list[str](), list[str](), 0
    for c in (c for line in lines for c in line if c.eta):
        beside = plain.get((c.sampler, c.steps))
        if beside is None or c.quality is None or beside.quality is None:
            continue
        apart = difference(c.quality, beside.quality)
        if apart.is_zero:
            equal += 1
        else:
            (worse if apart.value > 0 else better).append(c.label)
    if not better and not worse and not equal:
        return None
    parts = [f"better for {', '.join(better)}"] if better else []
    parts += [f"worse for {', '.join(worse)}"] if worse else []
    parts += [f"no difference for {equal} configurations"] if equal else []
    return f"Noise (eta above 0) beside eta 0 at the same steps: {'; '.join(parts)}."


def _predicted(judged: Sequence[ConfigurationResult]) -> str | None:
    """How well the error on normal data foretells the measured order, and where it is most clearly wrong."""
    known = [(c, c.predicted_distance, c.quality) for c in judged if c.predicted_distance is not None and c.quality is not None]
    if len(known) < FEWEST_RANKED:
        return None
    foretold, found = ([float(v) for v in values] for values in zip(*((p, q.kernel.value) for _, p, q in known), strict=True))
    clear, across, wrong = 0, 0, list[tuple[float, str]]()
    for (a, predicted_a, quality_a), (b, predicted_b, quality_b) in itertools.combinations(known, 2):
        apart = difference(quality_a, quality_b)
        if not apart.is_zero and not math.isclose(predicted_a, predicted_b, rel_tol=_EQUAL):
            clear += 1
            better, worse = (b, a) if apart.value > 0 else (a, b)
            if (apart.value > 0) != (predicted_a > predicted_b):
                across += (a.sampler, a.eta) != (b.sampler, b.eta)
                wrong.append((abs(apart.value), f"{worse.label} was foretold better than {better.label}"))
    verdict = f"{len(wrong)} of {clear} clear differences the wrong way round"
    most = f", {across} of them between samplers or etas, the largest: {max(wrong)[1]}" if wrong else ""
    rank = f"rank correlation {rank_correlation(foretold, found):.2f} with the measured distances over {len(known)} configurations"
    return f"Predicted without a model call, from the real images' mean and covariance: {rank}, {verdict}{most}."


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else 0.0


def _centred_ranks(values: Sequence[float]) -> FloatArray:
    """Ranks less their mean; of values that are equal but for rounding the mean rank."""
    below = [sum(other < v - _EQUAL * abs(v) for other in values) for v in values]
    above = [sum(other > v + _EQUAL * abs(v) for other in values) for v in values]
    return np.array([(b - a) / 2 for b, a in zip(below, above, strict=True)], dtype=np.float64)


def _narrower(curve: TradeoffCurve) -> str:
    """What more images would tell: of the differences from the baseline that show none the widest, else the widest figure."""
    judged = [(c, c.quality) for c in curve.configurations if c.quality is not None]
    base, undecided = curve.baseline.quality, list[tuple[float, str, int]]()
    for c, quality in judged:
        apart = None if base is None or c.baseline else difference(quality, base)
        if apart is not None and apart.is_zero:
            undecided.append((_half_width(apart), c.label, quality.count))
    if base is not None and undecided:
        width, label, count = max(undecided)
        return (
            f"More images would narrow the difference of {label} ({count:,} images) from {curve.baseline.label} "
            f"({base.count:,}) most: it is known to ±{width:.2g}, and four times as many of both would halve that."
        )
    width, label, count = max((_half_width(quality.kernel), c.label, quality.count) for c, quality in judged)
    return f"The widest interval is {label}'s, ±{width:.2g} from {count:,} images; four times as many would halve it."


def _half_width(estimate: Estimate) -> float:
    low, high = estimate.interval()
    return (high - low) / 2
