"""What noise costs: every run with eta above 0 against the run at eta 0 of the same sampler, steps and round.

Runs of one round stand close together, so that their ratio says something even where the machine's pace drifts from round to round.
The pairs of one step count and round share their run at eta 0, which makes the interval a little too narrow; so a clear majority
of the pairs has to agree as well.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import median

from ddimkit.tradeoff.results import TradeoffCurve

__all__ = ["eta_cost", "eta_ratios", "median_interval"]

_CLOSE = 0.05
_CONFIDENCE = 0.95
_MAJORITY = 0.75


def eta_cost(curve: TradeoffCurve) -> str | None:
    """Whether noise costs time, in a sentence; None if no sampler ran both with it and without."""
    ratios = eta_ratios(curve)
    if ratios is None:
        return None
    interval = median_interval(ratios)
    if interval is None:
        few = f"from {len(ratios)} pairs of runs: take more rounds" if ratios else "from results that keep no seconds of each round"
        return f"Whether noise (eta above 0) costs time cannot be told {few}."
    middle, dearer = median(ratios), sum(ratio > 1 for ratio in ratios)
    verdict = "costs no time that these runs can tell from chance"
    if interval[0] > 1 and dearer >= _MAJORITY * len(ratios):
        verdict = "costs time" if middle > 1 + _CLOSE else "costs hardly any time"
    elif interval[0] > 1:
        verdict = "seems to cost time, though not in a clear majority of the pairs"
    pairs = f"of {len(ratios)} pairs of runs in one round it took longer in {dearer}"
    return (
        f"Noise (eta above 0) {verdict}: {pairs}, and the median ratio to eta 0 is {middle:.3f} "
        f"({_CONFIDENCE:.0%} interval {interval[0]:.3f} to {interval[1]:.3f})."
    )


def eta_ratios(curve: TradeoffCurve) -> list[float] | None:
    """Seconds with noise over seconds at eta 0, one ratio a pair of runs; None if nothing ran both with noise and without."""
    plain = {(c.sampler, c.steps): c for c in curve.configurations if not c.baseline and c.eta == 0}
    noisy = [c for c in curve.configurations if not c.baseline and c.eta and (c.sampler, c.steps) in plain]
    if not noisy:
        return None
    # A configuration's round r is its entry r, so that a run without a partner is one at the end.
    pairs = [pair for c in noisy for pair in zip(c.round_seconds, plain[c.sampler, c.steps].round_seconds, strict=False)]
    return [with_noise / without for with_noise, without in pairs]


def median_interval(values: Sequence[float], confidence: float = _CONFIDENCE) -> tuple[float, float] | None:
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
