"""Which sampler and timesteps for a budget of model calls: results, what follows from them, and how they are kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate, bootstrap_weights, estimate_kernel
from ddimkit.quality.measure import Quality, difference
from ddimkit.quality.reference import Reference
from ddimkit.quality.statistics import as_features
from ddimkit.tradeoff.quality_findings import FEWEST_RANKED, rank_correlation

__all__ = [
    "SEARCHED",
    "BudgetResult",
    "BudgetStudy",
    "SearchedList",
    "best_at_calls",
    "best_of",
    "budget_findings",
    "halves",
    "searched_findings",
]

_SCHEMA = 1
SEARCHED = ("gaussian", "network", "quality")
"""What the spacing of a searched list is called, after the objective of its search."""


@dataclass(frozen=True)
class SearchedList:
    """A list of timesteps that was searched for, whether or not it gained.

    Attributes:
        sampler: name of the sampler in :data:`~ddimkit.samplers.named.MAKERS`.
        calls: number of timesteps.
        objective: ``"gaussian"``, ``"network"`` or ``"quality"``.
        timesteps: the list; the best named spacing's where nothing was gained.
        gained: whether the search's own validation confirmed it.
        reason: what came of the search, in a sentence.
        search: what was asked, how often and of which seeds, as plain JSON values.
    """

    sampler: str
    calls: int
    objective: str
    timesteps: tuple[int, ...]
    gained: bool
    reason: str
    search: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "SearchedList":
        """Read what ``dataclasses.asdict`` gave."""
        fields: dict[str, Any] = {**saved, "timesteps": tuple(saved["timesteps"])}
        return cls(**fields)


@dataclass(frozen=True)
class BudgetResult:
    """One sampler over one list of timesteps.

    Attributes:
        sampler: name of the sampler in :data:`~ddimkit.samplers.named.MAKERS`.
        calls: model calls.
        spacing: a named spacing, or the objective of a searched list.
        timesteps: the timesteps walked.
        quality: distances to real images.
        halves: the kernel distance of the even and of the odd seeds.
        apart: how far its first 64 images are from those of the same seeds by DDIM at the most calls, as a share of the distance
            between different seeds; None where those are not known.
        predicted: the squared Fréchet distance on normal data of the real images' mean and covariance; None where it is not known.
    """

    sampler: str
    calls: int
    spacing: str
    timesteps: tuple[int, ...]
    quality: Quality
    halves: tuple[Estimate, Estimate]
    apart: float | None = None
    predicted: float | None = None

    @property
    def label(self) -> str:
        """A short name, as in ``dpm-2m-10 trailing``."""
        return f"{self.sampler}-{self.calls} {self.spacing}"


@dataclass(frozen=True)
class BudgetStudy:
    """Samplers and lists at equal numbers of model calls, from the same noise.

    Attributes:
        model: name, hash of the weights, schedule, prediction and clip.
        machine: processor or GPU.
        versions: of Python, torch, numpy and ddimkit.
        results: what was judged.
        lists: what was searched for.
        settings: how the images were drawn.
    """

    model: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    results: tuple[BudgetResult, ...]
    lists: tuple[SearchedList, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def at(self, calls: int) -> list[BudgetResult]:
        """The results of a number of calls, the closest to real images first."""
        return sorted((r for r in self.results if r.calls == calls), key=lambda r: r.quality.kernel.value)

    def find(self, sampler: str, calls: int, spacing: str = "trailing") -> BudgetResult | None:
        """One result, if it was judged."""
        return next((r for r in self.results if (r.sampler, r.calls, r.spacing) == (sampler, calls, spacing)), None)

    @property
    def budgets(self) -> list[int]:
        """The numbers of calls, ascending."""
        return sorted({r.calls for r in self.results})

    def save(self, path: Path) -> None:
        """Write as JSON."""
        results = [{**asdict(r), "quality": r.quality.to_dict()} for r in self.results]
        fields = {"model": self.model, "machine": self.machine, "versions": self.versions, "settings": self.settings}
        saved = {"schema_version": _SCHEMA, **fields, "lists": [asdict(found) for found in self.lists], "results": results}
        path.write_text(json.dumps(saved) + "\n")

    @classmethod
    def load(cls, path: Path) -> "BudgetStudy":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            DDIMKitError: the file is no study of budgets, or of a schema this version does not know.
        """
        try:
            saved = json.loads(Path(path).read_text())
            if saved["schema_version"] != _SCHEMA:
                raise DDIMKitError(f"{path} is of schema {saved['schema_version']}; this version reads schema {_SCHEMA}")
            lists = tuple(SearchedList.from_dict(found) for found in saved["lists"])
            results = tuple(_result(saved_result) for saved_result in saved["results"])
            return cls(saved["model"], saved["machine"], saved["versions"], results, lists, saved["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise DDIMKitError(f"{path} is no study of budgets: {type(error).__name__} {error}") from error


def _result(saved: Mapping[str, Any]) -> BudgetResult:
    even, odd = (Estimate(float(half["value"]), tuple(half["replicates"])) for half in saved["halves"])
    read = {"timesteps": tuple(saved["timesteps"]), "quality": Quality.from_dict(saved["quality"]), "halves": (even, odd)}
    fields: dict[str, Any] = {**saved, **read}
    return BudgetResult(**fields)


def halves(features: ArrayLike, reference: Reference) -> tuple[Estimate, Estimate]:
    """The kernel distance of the images of even and of odd seeds, whose features (N, d) are those of the seeds 0, 1, 2 and so on.

    Raises:
        ValueError: fewer than 10 images.
    """
    x = as_features(features, len(reference.statistics.mean))
    if len(x) < 10:
        raise ValueError(f"two halves of at least 5 images each are needed, got {len(x)} images")
    weights = bootstrap_weights(range(len(x)))
    even, odd = (estimate_kernel(x[first::2], reference.kernel, weights[:, first::2]) for first in (0, 1))
    return even, odd


def best_of(results: Sequence[BudgetResult]) -> tuple[BudgetResult, Estimate]:
    """The result of the least kernel distance, and what it comes to where the choice has not seen the images that judge it.

    The least of several estimates is too low: part of what makes it the least is chance. So what the even seeds choose is judged by
    the odd ones, and the other way round; the estimate is the mean of both.

    Raises:
        ValueError: no results.
    """
    if not results:
        raise ValueError("there must be at least one result to choose from")
    by_even, by_odd = (min(results, key=lambda r: r.halves[half].value) for half in (0, 1))
    pairs = zip(by_even.halves[1].replicates, by_odd.halves[0].replicates, strict=True)
    value = (by_even.halves[1].value + by_odd.halves[0].value) / 2
    return min(results, key=lambda r: r.quality.kernel.value), Estimate(value, tuple((a + b) / 2 for a, b in pairs))


def best_at_calls(results: Sequence[BudgetResult]) -> list[tuple[BudgetResult, Estimate]]:
    """:func:`best_of` of every number of calls, ascending."""
    return [best_of([r for r in results if r.calls == calls]) for calls in sorted({r.calls for r in results})]


def budget_findings(study: BudgetStudy, references: Mapping[str, Quality]) -> list[str]:
    """What the figures say, in sentences.

    Args:
        study: the results.
        references: what the best of each budget is held against, by its name.
    """
    said = []
    for best, distance in best_at_calls(study.results):
        low, high = distance.interval()
        beside = [f"{_word(distance - _comparable(other, best).kernel)} {name}" for name, other in references.items()]
        said.append(
            f"At {best.calls} calls the best is {best.label}: kernel distance {distance.value:.3g} ({low:.3g} to {high:.3g}), "
            "by images that did not choose it" + (f"; {', '.join(beside)}" if beside else "") + _frechet(best, references) + "."
        )
    return [*said, *searched_findings(study), *_foretold(study)]


def _foretold(study: BudgetStudy) -> list[str]:
    """How well the error on normal data foretells the order at equal calls."""
    shown = []
    for calls in study.budgets:
        known = [(r.predicted, r.quality.kernel.value) for r in study.at(calls) if r.predicted is not None]
        if len(known) >= FEWEST_RANKED:
            shown.append(f"{rank_correlation(*zip(*known, strict=True)):.2f} at {calls} calls ({len(known)} results)")
    start = (
        "Predicted without a model call, from the real images' mean and covariance: rank correlation with the measured distances"
    )
    return [f"{start} {', '.join(shown)}."] if shown else []


def _frechet(best: BudgetResult, references: Mapping[str, Quality]) -> str:
    """The Fréchet distance beside those of as many images; nothing where there are none."""
    alike = {name: other for name, other in references.items() if other.count == best.quality.count}
    beside = [
        f"{_word(difference(best.quality, other, 'frechet'))} {name} ({other.frechet.value:.3g})" for name, other in alike.items()
    ]
    return f"; Fréchet distance, by all images, {best.quality.frechet.value:.3g}, {', '.join(beside)}" if beside else ""


def _comparable(reference: Quality, best: BudgetResult) -> Quality:
    reference.label.check(best.quality.label)
    return reference


def _word(apart: Estimate) -> str:
    return "no different from" if apart.is_zero else "worse than" if apart.value > 0 else "better than"


def searched_findings(study: BudgetStudy) -> list[str]:
    """Of each kind of searched list, where it is clearly better or worse than every named spacing of the same sampler."""
    said = []
    for kind in SEARCHED:
        groups: dict[str, list[str]] = {
            "better than every named spacing judged for": [],
            "no clear difference for": [],
            "worse than one for": [],
        }
        for r in (r for r in study.results if r.spacing == kind):
            named = [o for o in study.results if (o.sampler, o.calls) == (r.sampler, r.calls) and o.spacing not in SEARCHED]
            if named:
                ends = [difference(r.quality, o.quality).interval() for o in named]
                place = 0 if all(high < 0 for _, high in ends) else 2 if any(low > 0 for low, _ in ends) else 1
                groups[list(groups)[place]].append(f"{r.sampler}-{r.calls}")
        groups["nothing gained in the search for"] = [
            f"{found.sampler}-{found.calls}" for found in study.lists if found.objective == kind and not found.gained
        ]
        parts = [f"{what} {', '.join(names)}" for what, names in groups.items() if names]
        if parts:
            said.append(f"Lists searched by the {kind} objective: {'; '.join(parts)}.")
    return said
