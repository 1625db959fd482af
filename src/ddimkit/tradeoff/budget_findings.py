"""What a study of budgets says, in sentences computed from its numbers; every one can come out either way."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from ddimkit.quality.estimate import Estimate
from ddimkit.quality.measure import difference
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy
from ddimkit.tradeoff.quality_findings import FEWEST_RANKED, figure_with_interval, rank_correlation

__all__ = ["budget_findings"]

_BETTER, _EQUAL = "better than every named spacing judged for", "no clear difference for"
_WORSE, _NOTHING = "worse than one of them for", "nothing gained in the search for"
_Pair = tuple[float, float]


def budget_findings(study: BudgetStudy) -> list[str]:
    """The best of each budget beside the references, what searched lists are worth, and whether a prediction would have told."""
    best = [_best(r, study) for r in study.best()]
    return [*best, *(said for kind in SEARCHED for said in _searched(kind, study)), *_foretold(study)]


def _best(best: BudgetResult, study: BudgetStudy) -> str:
    """What fresh images say of it, beside the references."""
    said, fresh = f"At {best.calls} calls the best is {best.label}", best.fresh
    if fresh is None:
        return f"{said}, which no other images than those that chose it have judged."
    others = {name: other.fresh or other.quality for name, other in study.references.items() if other is not best}
    alike = {name: other for name, other in others.items() if other.count == fresh.count}
    said += f": kernel distance {figure_with_interval(fresh)}"
    said += "".join(f", {_word(difference(fresh, other))} {name}" for name, other in others.items())
    if alike:
        said += f"; Fréchet distance {fresh.frechet.value:.3g}"
    for name, other in alike.items():
        said += f", {_word(difference(fresh, other, 'frechet'))} {name} ({other.frechet.value:.3g})"
    return f"{said}, by {fresh.count:,} images that did not choose it."


def _word(apart: Estimate) -> str:
    return "no different from" if apart.is_zero else "worse than" if apart.value > 0 else "better than"


def _searched(kind: str, study: BudgetStudy) -> list[str]:
    """Where a kind of searched list is clearly better or worse than the named spacings of the same sampler."""
    groups, nearer = {what: list[str]() for what in (_BETTER, _EQUAL, _WORSE, _NOTHING)}, list[bool]()
    for r in (r for r in study.results if r.spacing == kind):
        named = [o for o in _named(study) if (o.sampler, o.calls) == (r.sampler, r.calls)]
        if named:
            groups[_place(r, named)].append(f"{r.sampler}-{r.calls}")
            distances = [o.apart for o in named if o.apart is not None]
            nearer += [r.apart < min(distances)] if distances and r.apart is not None else []
    groups[_NOTHING] = [f"{x.sampler}-{x.calls}" for x in study.lists if x.objective == kind and not x.gained]
    parts = [f"{what} {', '.join(names)}" for what, names in groups.items() if names]
    if kind == "network" and nearer:
        parts.append(
            f"in pixels nearer than every named spacing to the images of the finest run for {sum(nearer)} of {len(nearer)}"
        )
    return [f"Lists searched by the {kind} objective: {'; '.join(parts)}."] if parts else []


def _named(study: BudgetStudy) -> list[BudgetResult]:
    return [r for r in study.results if r.spacing not in SEARCHED]


def _place(r: BudgetResult, named: Sequence[BudgetResult]) -> str:
    ends = [difference(r.quality, o.quality).interval() for o in named]
    return _BETTER if all(high < 0 for _, high in ends) else _WORSE if any(low > 0 for low, _ in ends) else _EQUAL


def _foretold(study: BudgetStudy) -> list[str]:
    """How well the error on normal data foretells the order of the named spacings at equal calls."""
    every, single = defaultdict[str, list[_Pair]](list), defaultdict[str, list[_Pair]](list)
    for r in sorted(_named(study), key=lambda r: (r.calls, r.sampler)):
        if r.predicted is not None and r.calls in study.budgets:
            for group in (every[f"at {r.calls} calls"], single[f"{r.sampler}-{r.calls}"]):
                group.append((r.predicted, r.quality.kernel.value))
    overall, within = _ranks(every), _ranks(single)
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


def _ranks(groups: Mapping[str, Sequence[_Pair]]) -> dict[str, float]:
    return {what: rank_correlation(*zip(*pairs, strict=True)) for what, pairs in groups.items() if len(pairs) >= FEWEST_RANKED}
