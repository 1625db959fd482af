"""Which sampler and timesteps for a budget of model calls: results, how the best is chosen, and how they are kept."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddimkit.errors import DDIMKitError
from ddimkit.quality.measure import Quality
from ddimkit.samplers.named import MAKERS, adds_noise
from ddimkit.tradeoff.findings import SAME

__all__ = ["REFERENCES", "SEARCHED", "BudgetResult", "BudgetStudy", "SearchedList", "best_at_calls", "finalists"]

_SCHEMA = 2
REFERENCES = ("ddim", 50), ("ddim", 100), ("ddpm", 1000)
"""Samplers and model calls, over trailing, that few calls are held against."""
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
        quality: distances to real images, by which the best of several is chosen.
        fresh: distances of other images, by which what was chosen is judged; None where that was not chosen.
        apart: how far its first 64 images are from those of the same seeds by DDIM at 100 calls, as a share of the distance
            between different seeds; None where those are not known.
        predicted: the squared Fréchet distance on normal data of the real images' mean and covariance; None where it is not known.
    """

    sampler: str
    calls: int
    spacing: str
    timesteps: tuple[int, ...]
    quality: Quality
    fresh: Quality | None = None
    apart: float | None = None
    predicted: float | None = None

    @property
    def label(self) -> str:
        """A short name, as in ``dpm-2m-10 trailing``."""
        return f"{self.sampler}-{self.calls} {self.spacing}"

    @property
    def draws_another(self) -> bool:
        """Whether a seed draws another image than with DDIM at many steps; where that is not known, by the noise alone."""
        make = MAKERS.get(self.sampler)
        return (make is not None and adds_noise(make)) or (self.apart is not None and self.apart >= SAME)


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
        """The numbers of calls at which there is a choice, ascending."""
        return sorted(calls for calls, count in Counter(r.calls for r in self.results).items() if count > 1)

    @property
    def references(self) -> dict[str, BudgetResult]:
        """Those of :data:`REFERENCES` that are known, by names as DDIM-50."""
        known = {f"{sampler.upper()}-{calls}": self.find(sampler, calls) for sampler, calls in REFERENCES}
        return {name: r for name, r in known.items() if r is not None}

    def best(self) -> list[BudgetResult]:
        """The best of each budget, ascending."""
        return best_at_calls(r for r in self.results if r.calls in self.budgets)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        results = [{**asdict(r), "quality": r.quality.to_dict(), "fresh": r.fresh and r.fresh.to_dict()} for r in self.results]
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
    judged = {name: saved[name] and Quality.from_dict(saved[name]) for name in ("quality", "fresh")}
    fields: dict[str, Any] = {**saved, **judged, "timesteps": tuple(saved["timesteps"])}
    return BudgetResult(**fields)


def best_at_calls(results: Iterable[BudgetResult]) -> list[BudgetResult]:
    """Of every number of calls, ascending, the result of the least kernel distance.

    The least of several estimates is too low: part of what makes it the least is chance. What it is worth must be read from images
    that did not choose it, ``fresh``.
    """
    ordered = sorted(results, key=lambda r: (r.calls, r.quality.kernel.value))
    return [next(some) for _, some in itertools.groupby(ordered, lambda r: r.calls)]


def finalists(results: Sequence[BudgetResult]) -> list[BudgetResult]:
    """What is to be judged by fresh images: the best of each number of calls; of named spacings alone; and both without noise.

    Where one alone has so many calls, nothing was chosen.
    """
    every = Counter(r.calls for r in results)
    whole = [r for r in results if every[r.calls] > 1]
    plain = [r for r in whole if not r.draws_another]
    named = ([r for r in some if r.spacing not in SEARCHED] for some in (whole, plain))
    best = [r for some in (whole, plain, *named) for r in best_at_calls(some)]
    return list({r.label: r for r in best}.values())
