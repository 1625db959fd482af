"""What a curve says, in sentences computed from its numbers; every one can come out either way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddimkit.quality.measure import difference
from ddimkit.tradeoff.eta_cost import eta_cost
from ddimkit.tradeoff.quality_findings import quality_findings
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

__all__ = ["SAME", "PowerFit", "findings", "fit_power", "lines", "main_line", "refining"]

_CLOSE = 0.05
_NOISY = 0.25
SAME = 0.5
"""Images of one seed are the same where they are nearer to each other than this share of the distance between seeds."""


@dataclass(frozen=True)
class PowerFit:
    """The line ``log time = slope · log steps + constant`` through some points, and its R²."""

    slope: float
    constant: float
    r_squared: float

    def __call__(self, steps: float) -> float:
        """Seconds at a number of steps."""
        return math.exp(self.constant + self.slope * math.log(steps))


def fit_power(steps: Sequence[float], seconds: Sequence[float]) -> PowerFit | None:
    """Least squares through the logarithms; None for fewer than three different step counts."""
    if len(set(steps)) < 3:
        return None
    x, y = np.log(np.asarray(steps)), np.log(np.asarray(seconds))
    slope, constant = (float(v) for v in np.polyfit(x, y, 1))
    residual, scatter = float(np.sum((y - slope * x - constant) ** 2)), float(np.sum((y - y.mean()) ** 2))
    return PowerFit(slope, constant, 1 - residual / scatter if scatter else 0.0)


def findings(curve: TradeoffCurve) -> list[str]:
    """The findings, a sentence or two each, in the order of the report."""
    said = [
        _proportional(curve),
        *_speedups(curve),
        _overhead(curve),
        eta_cost(curve),
        _memory(curve),
        _noise(curve),
        refining(curve),
    ]
    return [*(s for s in said if s is not None), *quality_findings(curve, lines(curve, every_eta=True))]


def lines(curve: TradeoffCurve, *, every_eta: bool = False) -> list[list[ConfigurationResult]]:
    """What charts draw a line through: each sampler at its smallest eta, by falling steps, in the order they were swept.

    Args:
        curve: the sweep.
        every_eta: whether each eta has a line of its own.
    """
    others = [c for c in curve.configurations if not c.baseline]
    found: list[list[ConfigurationResult]] = []
    for name in dict.fromkeys(c.sampler for c in others):
        etas = sorted({c.eta for c in others if c.sampler == name and c.eta is not None})
        chosen = etas if every_eta else etas[:1]
        found += [curve.select(sampler=name, eta=eta) for eta in chosen or (None,)]
    return found


def main_line(curve: TradeoffCurve) -> list[ConfigurationResult]:
    """The first of the :func:`lines`, which the findings speak of."""
    return next(iter(lines(curve)), [])


def _proportional(curve: TradeoffCurve) -> str | None:
    line = main_line(curve)
    fit = fit_power([c.nfe for c in line], [c.total_seconds for c in line])
    if fit is None:
        return None
    verdict = "in proportion to" if abs(fit.slope - 1) <= _CLOSE else "faster than" if fit.slope > 1 else "more slowly than"
    name = line[0].sampler.removesuffix("Sampler")
    slope = f"the fitted slope on log-log axes is {fit.slope:.3f} (R² {fit.r_squared:.4f})"
    return f"{name}'s time grows {verdict} the number of steps: {slope}."


def _speedups(curve: TradeoffCurve) -> list[str]:
    line, base = main_line(curve), curve.baseline
    if not line:
        return []
    parts = [f"{c.speedup:.1f}× at {c.steps}" for c in line]
    off = [c for c in line if abs(c.speedup * c.nfe / base.nfe - 1) > 2 * _CLOSE]
    name = line[0].sampler.removesuffix("Sampler")
    first = f"Speed-up of {name} over {base.label}: {', '.join(parts)} steps."
    if not off:
        return [f"{first} Each is within {2 * _CLOSE:.0%} of the ratio of their model calls."]
    named = ", ".join(f"{c.steps} steps: {c.speedup:.1f}× where the calls alone give {base.nfe / c.nfe:.1f}×" for c in off)
    return [f"{first} Not explained by the model calls alone ({2 * _CLOSE:.0%} tolerance): {named}."]


def _overhead(curve: TradeoffCurve) -> str:
    shares = {c.label: c.sampler_overhead_seconds / c.total_seconds for c in curve.configurations}
    worst = max(shares, key=lambda name: shares[name])
    verdict = "Nearly all time is the model's" if shares[worst] <= 0.02 else "The sampler itself takes a share of the time"
    return f"{verdict}: its overhead is at most {shares[worst]:.2%} of a run ({worst})."


def _memory(curve: TradeoffCurve) -> str | None:
    known = {c.label: c.peak_memory_bytes for c in curve.configurations if c.peak_memory_bytes is not None}
    if not known:
        return f"Peak memory could not be measured: {curve.configurations[0].peak_memory_note}."
    low, high = min(known.values()), max(known.values())
    if high <= low * (1 + _CLOSE):
        most = f"{high / 2**20:.1f} MiB beyond the weights"
        return f"Over the three steps measured peak memory does not depend on the configuration: {most}."
    most = max(known, key=lambda name: known[name])
    span = f"{low / 2**20:.1f} to {high / 2**20:.1f} MiB"
    return f"Peak memory differs between configurations: {span} beyond the weights, most for {most}."


def _unsteady(c: ConfigurationResult) -> bool:
    """Whether the quartiles are far apart, or (a stall in one run) the total far outside them."""
    spread = c.total_seconds_spread
    widest, narrowest = max(spread.high, c.total_seconds), min(spread.low, c.total_seconds)
    return widest - narrowest > _NOISY * c.total_seconds


def _noise(curve: TradeoffCurve) -> str | None:
    wide = [c.label for c in curve.configurations if c.total_seconds_spread.runs > 1 and _unsteady(c)]
    if not wide:
        return f"The machine was steady: no configuration's times spread over more than {_NOISY:.0%}."
    named = ", ".join(wide)
    return f"The machine was not steady: times spread over more than {_NOISY:.0%} for {named}. Trust ratios, not seconds."


def refining(curve: TradeoffCurve) -> str | None:
    """Whether more steps from the same seed draw the same image: nearer to it by half than images of different seeds are."""
    finest = next((c for c in curve.configurations if c.label == curve.finest), None)
    if finest is None or not curve.other_seeds_distance:
        return None
    near = [
        c for c in curve.configurations if (c.sampler, c.eta) == (finest.sampler, finest.eta) and c.same_seed_distance is not None
    ]
    if not near:
        return None
    apart = {c.steps: (c.same_seed_distance or 0.0) / curve.other_seeds_distance for c in near}
    same = sorted(steps for steps, share in apart.items() if share < SAME)
    others = sorted(steps for steps in apart if steps not in same)
    parts = [f"the same image as with {', '.join(map(str, same))}"] if same else []
    parts += [f"another than with {', '.join(map(str, others))}"] if others else []
    shares = ", ".join(f"{share:.2g} at {steps}" for steps, share in sorted(apart.items()))
    return (
        f"Refining: with {finest.steps} steps a seed draws {' and '.join(parts)}. Distance to the image of the same seed, as a "
        f"share of the distance between different seeds: {shares}." + _gained(finest, near, same)
    )


def _gained(finest: ConfigurationResult, near: Sequence[ConfigurationResult], same: Sequence[int]) -> str:
    """Whether the same image has become better, from the smallest count that draws it; nothing where that was not judged."""
    if not same:
        return ""
    first = next(c for c in near if c.steps == min(same))
    if first.quality is None or finest.quality is None:
        return ""
    apart = difference(first.quality, finest.quality)
    low, high = apart.interval()
    verdict = "no different from" if apart.is_zero else "better than" if apart.value > 0 else "worse than"
    return (
        f" By kernel distance the images of {finest.steps} steps are {verdict} those of {first.steps}: the difference is "
        f"{apart.value:.2g} (95 % interval {low:.2g} to {high:.2g})."
    )
