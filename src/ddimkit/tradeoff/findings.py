"""What a study found, in at most ten sentences computed from its numbers, the most useful first; each can come out either way."""

import math
from collections.abc import Sequence

import numpy as np

from ddimkit.quality.estimate import Estimate
from ddimkit.tradeoff.fit import time_fit
from ddimkit.tradeoff.gap import Gap, is_plain_ddim, simultaneous
from ddimkit.tradeoff.recommend import nearest_known, plain_ddim, recommend
from ddimkit.tradeoff.rows import SAME_IMAGE, Row, eta_pairs, kind_of, spacing_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import PARTS, T_95, speedup
from ddimkit.tradeoff.wording import close_in, count_of, decimal, percent, plural, size, with_margin

__all__ = ["FEW_CALLS", "MOST", "findings"]

MOST = 10
"""Findings, at most."""

FEW_CALLS = 20
"""Samplers of up to this number of model calls have few."""

_CLOSE = 0.05
_UNSTEADY = 0.25
_LITTLE = 0.02


def findings(study: Study) -> list[str]:
    """The findings, a sentence each, at most ten, the most useful first."""
    said = [_contradictions(study)]
    if len(study.evaluated) > 1:
        if study.base.quality is not None:
            said += [_margin(study), _plain(study)]
        said += [_few_calls(study), _more_steps(study), _eta(study)]
    said += [_same_seed(study), _steadiness(study), _growth(study), _noise(study), _baseline(study), _overhead(study)]
    return [sentence for sentence in said if sentence is not None][:MOST]


def _leads(study: Study, pairs: Sequence[tuple[Row, Row]]) -> list[Estimate]:
    """How much larger the distance of the first of each pair is, with simultaneous intervals."""
    return simultaneous(study, [{a.label: 1.0, b.label: -1.0} for a, b in pairs])


def _contradictions(study: Study) -> str | None:
    found = [row.label for row in study.rows if "contradicted by" in row.source]
    rest = f" and {len(found) - 1} more" if found[1:] else ""
    return f"This run's images contradict the KID of the earlier study for {found[0]}{rest} (|z| > 3)." if found else None


def _margin(study: Study) -> str | None:
    """The recommended row beside the baseline."""
    found, base = recommend(study), study.base
    if found.row is None or found.share is None:
        return None
    row = found.row
    apart = study.difference(row.label, base.label)
    if apart.high < 0:
        verdict = f"has a lower KID than {base.label} (by {size(apart)})"
    elif found.known:
        margin = f"{100 * (1 - found.share):.0f} % of the gap"
        verdict = f"is non-inferior to {base.label} in KID at a margin of {margin} (difference {with_margin(apart)})"
    elif apart.low > 0:
        verdict = f"has a higher KID than {base.label} (by {size(apart)})"
    else:
        verdict = f"and {base.label} are {close_in((row, base), apart)} in KID"
    return f"{row.label} {verdict}, with {row.calls} NFE instead of {base.calls}."


def _plain(study: Study) -> str | None:
    """What the usual procedure for DDIM alone gives."""
    found = plain_ddim(study)
    if found is None:
        return None
    (row, steps), rows = found, [row for row in study.evaluated if is_plain_ddim(row)]
    beyond = "are not known to lower its KID" if any(r.calls > row.calls for r in rows) else "were not evaluated"
    closed = Gap(study).closed(row)
    share = "" if closed is None else f"; that closes {percent(closed)} of the gap"
    return f"DDIM alone needs {row.calls} steps, {steps} with 20 % more for safety: more {beyond}{share}."


def _few_calls(study: Study) -> str | None:
    """The best deterministic and the best stochastic sampler with few calls."""
    few = [row for row in study.evaluated if row.calls <= FEW_CALLS and row.label != study.baseline]
    still, noisy = [row for row in few if not row.adds_noise], [row for row in few if row.adds_noise]
    if not still or not noisy:
        return None
    pairs = [(a, b) for a in still for b in noisy]
    leads = _leads(study, pairs)
    a, b = nearest_known(study, still), nearest_known(study, noisy)
    lead = leads[pairs.index((a, b))]
    still_named, noisy_named = f"deterministic sampler, {a.label}", f"stochastic sampler, {b.label}"
    if lead.is_zero:
        return f"Up to {FEW_CALLS} NFE the best {still_named}, and the best {noisy_named}, are {close_in((a, b), lead)} in KID."
    better, worse = (noisy_named, still_named) if lead.value > 0 else (still_named, noisy_named)
    return f"Up to {FEW_CALLS} NFE the best {better}, has a lower KID than the best {worse}, by {size(lead)}."


def _more_steps(study: Study) -> str | None:
    """Where more steps of one sampler are worse."""
    named = [row for row in study.evaluated if spacing_of(row.sampler) not in ("list", "table")]
    pairs = [(a, b) for a in named for b in named if a.calls > b.calls and kind_of(a.sampler) == kind_of(b.sampler)]
    if not pairs:
        return None
    leads = _leads(study, pairs)
    worse = [(lead.value, i) for i, lead in enumerate(leads) if lead.low > 0]
    if not worse:
        count = count_of(row for pair in pairs for row in pair)
        return f"No sampler is known to get worse with more steps ({plural(len(pairs), 'pair')} of step counts, n = {count})."
    place = max(worse)[1]
    (a, b), most = pairs[place], f"by {size(leads[place])}"
    share = f"{len(worse)} of {plural(len(pairs), 'pair')}"
    return f"More steps raise the KID in {share} of step counts, most from {b.label} to {a.label} ({most})."


def _eta(study: Study) -> str | None:
    pairs = eta_pairs(study.evaluated)
    if not pairs:
        return None
    leads = _leads(study, pairs)
    lower, higher = sum(lead.high < 0 for lead in leads), sum(lead.low > 0 for lead in leads)
    rest = [(lead.margin, i) for i, lead in enumerate(leads) if lead.is_zero]
    open_ = f", and is {close_in(pairs[max(rest)[1]], leads[max(rest)[1]])} in {len(rest)}" if rest else ""
    share = f"{lower} of {plural(len(pairs), 'pair')}"
    return f"At equal steps eta above 0 lowers DDIM's KID below that of eta 0 in {share}, raises it in {higher}{open_}."


def _same_seed(study: Study) -> str | None:
    """From how many steps on a seed gives DDIM's finest image."""
    rows = sorted((row for row in study.rows if is_plain_ddim(row) and row.same_seed is not None), key=lambda row: -row.calls)
    if len(rows) < 2:
        return None
    other = next((i for i, row in enumerate(rows) if (row.same_seed or 0.0) >= SAME_IMAGE), len(rows))
    last, finest = rows[max(other - 1, 0)], rows[0]
    if last is finest:
        return f"A seed gives another image with {rows[1].calls} than with {finest.calls} steps of DDIM."
    only = "" if other == len(rows) else f", and another with {rows[other].calls}"
    return f"A seed gives the same image with {last.calls} as with {finest.calls} steps of DDIM{only}."


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
