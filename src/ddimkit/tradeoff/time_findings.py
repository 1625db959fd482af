"""What a study found of times, in sentences computed from its numbers; each can come out either way."""

import math

import numpy as np

from ddimkit.tradeoff.fit import time_fit
from ddimkit.tradeoff.gap import is_plain_ddim
from ddimkit.tradeoff.rows import eta_pairs
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import PARTS, T_95, speedup
from ddimkit.tradeoff.wording import decimal, plural

__all__ = ["time_findings"]

_CLOSE = 0.05
_UNSTEADY = 0.25
_LITTLE = 0.02


def time_findings(study: Study) -> list[str | None]:
    """The findings of times, the most useful first; None for what the rows do not tell."""
    return [_steadiness(study), _growth(study), _noise(study), _baseline(study), _overhead(study)]


def _growth(study: Study) -> str | None:
    fit = time_fit(study)
    if fit is None:
        return None
    verdict = "in proportion to" if abs(fit.slope - 1) <= _CLOSE else "faster than" if fit.slope > 1 else "more slowly than"
    return f"DDIM's time grows {verdict} the steps: slope {fit.slope:.3f} on logarithmic axes (R² {fit.r_squared:.4f})."


def _noise(study: Study) -> str | None:
    """The time of DDIM's noise, from the same tenths of the measurement."""
    pairs = [(a.times, b.times) for a, b in eta_pairs(study.rows) if a.times and b.times]
    if not pairs:
        return None
    ratios = np.mean([np.log(np.asarray(a.parts) / np.asarray(b.parts)) for a, b in pairs], axis=0)
    mean, reach = float(ratios.mean()), T_95 * float(ratios.std(ddof=1)) / math.sqrt(PARTS)
    low, middle, high = (100 * math.expm1(v) for v in (mean - reach, mean, mean + reach))
    if low <= 0 <= high:
        unresolved = f"not distinguishable (n = {plural(len(pairs), 'pair')}, ±{(high - low) / 2:.1f} %)"
        return f"The times of DDIM with eta above 0 and with eta 0 are {unresolved}."
    ends = "{:.1f} to {:.1f} %".format(*sorted((abs(low), abs(high))))
    verdict = "more" if middle > 0 else "less"
    return f"DDIM with eta above 0 takes {abs(middle):.1f} % {verdict} time than with eta 0 (95 % interval {ends})."


def _baseline(study: Study) -> str | None:
    """The baseline beside DDIM with as many calls."""
    base = study.base
    other = next((row for row in study.rows if is_plain_ddim(row) and row.calls == base.calls and row is not base), None)
    if other is None or other.times is None or base.times is None:
        return None
    ratio = speedup(base.times, other.times)
    return f"{base.label} takes {ratio.value:.2f} × the time of {other.label} (95 % interval {ratio.low:.2f} to {ratio.high:.2f})."


def _overhead(study: Study) -> str | None:
    shares = [(row.times.overhead_seconds / row.times.seconds, row.label) for row in study.rows if row.times]
    if not shares:
        return None
    most, label = max(shares)
    if most >= 1:
        return (
            f"The sampler's overhead is not resolved: {label} took no longer with the model than with one that returns a constant."
        )
    verdict = "Nearly all time is the model's" if most <= _LITTLE else "The sampler itself takes time"
    return f"{verdict}: its overhead is at most {decimal(100 * most)} % of a run ({label})."


def _steadiness(study: Study) -> str | None:
    """Whether the quartiles of some row's time are far apart."""
    spans = [((row.times.quartiles[1] - row.times.quartiles[0]) / row.times.seconds, row.label) for row in study.rows if row.times]
    if not spans:
        return None
    widest, label = max(spans)
    if widest <= _UNSTEADY:
        return f"The machine was steady: the quartiles of a row's time are at most {100 * widest:.0f} % apart."
    apart = f"{100 * widest:.0f} % apart"
    return f"The machine was unsteady: the quartiles of {label}'s time are {apart}, so trust ratios, not seconds."
