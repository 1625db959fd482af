"""What a study of budgets says, in sentences computed from its numbers; every one can come out either way."""

import itertools
from collections.abc import Iterable, Sequence
from statistics import median

from ddimkit.quality.estimate import Estimate
from ddimkit.quality.measure import Distance, Quality, difference
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy
from ddimkit.tradeoff.quality_findings import FEWEST_RANKED, rank_correlation

__all__ = ["budget_findings"]


def budget_findings(study: BudgetStudy) -> list[str]:
    """The best of each budget beside the references, what searched lists are worth, and whether a prediction would have told."""
    best = [_best(r, study) for r in study.best()]
    return [*best, *(said for kind in SEARCHED for said in _searched(kind, study)), *_foretold(study)]


def _best(best: BudgetResult, study: BudgetStudy) -> str:
    """What fresh images say of it, beside the references."""
    said = f"At {best.calls} calls the best is {best.label}"
    if best.fresh is None:
        return f"{said}, which no other images than those that chose it have judged."
    others = {name: other.fresh or other.quality for name, other in study.references.items() if other is not best}
    kernel = [f", {_beside(best.fresh, other, 'kernel')} {name}" for name, other in others.items()]
    frechet = [
        f", {_beside(best.fresh, other, 'frechet')} {name} ({other.frechet.value:.3g})"
        for name, other in others.items()
        if other.count == best.fresh.count
    ]
    low, high = best.fresh.kernel.interval()
    said += f": kernel distance {best.fresh.kernel.value:.3g} ({low:.3g} to {high:.3g}){''.join(kernel)}"
    if frechet:
        said += f"; Fréchet distance {best.fresh.frechet.value:.3g}{''.join(frechet)}"
    return f"{said}, by {best.fresh.count:,} images that did not choose it."


def _beside(a: Quality, b: Quality, distance: Distance) -> str:
    return _word(difference(a, b, distance))


def _word(apart: Estimate) -> str:
    return "no different from" if apart.is_zero else "worse than" if apart.value > 0 else "better than"


def _searched(kind: str, study: BudgetStudy) -> list[str]:
    """Where a kind of searched list is clearly better or worse than the named spacings of the same sampler."""
    groups: dict[str, list[str]] = {
        "better than every named spacing judged for": [],
        "no clear difference for": [],
        "worse than one of them for": [],
    }
    nearer, known = 0, 0
    for r in (r for r in study.results if r.spacing == kind):
        named = _named(o for o in study.results if (o.sampler, o.calls) == (r.sampler, r.calls))
        if named:
            groups[list(groups)[_place(r, named)]].append(f"{r.sampler}-{r.calls}")
            distances = [o.apart for o in named if o.apart is not None]
            if distances and r.apart is not None:
                nearer, known = nearer + (r.apart < min(distances)), known + 1
    groups["nothing gained in the search for"] = [
        f"{found.sampler}-{found.calls}" for found in study.lists if found.objective == kind and not found.gained
    ]
    parts = [f"{what} {', '.join(names)}" for what, names in groups.items() if names]
    if not parts:
        return []
    if kind == "network" and known:
        parts.append(f"in pixels nearer than every named spacing to the images of the finest run for {nearer} of {known}")
    return [f"Lists searched by the {kind} objective: {'; '.join(parts)}."]


def _named(results: Iterable[BudgetResult]) -> list[BudgetResult]:
    return [r for r in results if r.spacing not in SEARCHED]


def _place(r: BudgetResult, named: Sequence[BudgetResult]) -> int:
    """0 where a list is clearly better than every named spacing, 2 where it is clearly worse than one."""
    ends = [difference(r.quality, o.quality).interval() for o in named]
    return 0 if all(high < 0 for _, high in ends) else 2 if any(low > 0 for low, _ in ends) else 1


def _foretold(study: BudgetStudy) -> list[str]:
    """How well the error on normal data foretells the order of the named spacings at equal calls."""
    known = [r for r in _named(study.results) if r.predicted is not None and r.calls in study.budgets]
    every = {f"at {calls} calls": [r for r in known if r.calls == calls] for calls in study.budgets}
    single = {f"{name}-{calls}": [r for r in known if (r.sampler, r.calls) == (name, calls)] for name, calls in _pairs(known)}
    overall, within = ({what: _rank(rs) for what, rs in groups.items() if len(rs) >= FEWEST_RANKED} for groups in (every, single))
    if not overall:
        return []
    said = (
        "Predicted without a model call, from the real images' mean and covariance, over named spacings: rank correlation with the "
        f"measured distances {', '.join(f'{rank:.2f} {what}' for what, rank in overall.items())}"
    )
    if within:
        low, high = min(within, key=lambda name: within[name]), max(within, key=lambda name: within[name])
        said += (
            f"; within one sampler {median(within.values()):.2f} in the median, "
            f"from {within[low]:.2f} ({low}) to {within[high]:.2f} ({high})"
        )
    return [said + "."]


def _pairs(results: Iterable[BudgetResult]) -> list[tuple[str, int]]:
    ordered = sorted((r.sampler, r.calls) for r in results)
    return [pair for pair, _ in itertools.groupby(ordered)]


def _rank(results: Iterable[BudgetResult]) -> float:
    return rank_correlation(*zip(*((r.predicted or 0.0, r.quality.kernel.value) for r in results), strict=True))
