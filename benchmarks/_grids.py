"""Grids of a study: samplers, spacings, lists and numbers of calls, how many images of each, and what is chosen among them."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from _searched import Kind, Search
from ddimkit import DDIMKitError, DDIMSampler, ModelBundle, PlanSampler
from ddimkit.learning.shipped import shipped_tables
from ddimkit.samplers.named import MAKERS
from ddimkit.timesteps import Spacing
from ddimkit.tradeoff.grid import ZERO_STEPS, labelled, sampler_grid
from ddimkit.tradeoff.rows import Row, label_of, spacing_of
from ddimkit.tradeoff.study import Study

SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
FINE_STEPS = 100
"""Steps of the DDIM whose images the others are compared with, seed by seed, at least."""

_NOISY_SPACED = 10


@dataclass(frozen=True)
class Grid:
    """Which rows a study has, and how many images of each.

    Args:
        samplers: by name.
        calls: numbers of calls.
        spacings: of the timesteps; above 10 calls a sampler that adds noise has the trailing one only.
        etas: of DDIM.
        noisy_calls: samplers that add noise are run up to so many calls; None for no limit.
        objectives: of searched lists.
        select: images that choose among the rows of equal calls; 0 chooses nothing, and every row is measured.
        images: images that measure a row.
        long: the same of rows of more than 100 calls.
    """

    samplers: tuple[str, ...] = ("ddim",)
    calls: tuple[int, ...] = (10, 20, 50, 100)
    spacings: tuple[str, ...] = ("trailing",)
    etas: tuple[float, ...] = (0.0,)
    noisy_calls: int | None = None
    objectives: tuple[Kind, ...] = ()
    select: int = 0
    images: int = 2000
    long: int = 2000


_EVERY = ("ddim", "dpm-2m", "dpm-3m", "unipc-2", "unipc-3", "ddpm", "dpm-2m-sde", "dpm-3m-sde")
GRIDS = {
    "ddim": Grid(
        ("ddim", "sigma-hat"), (10, 20, 50, 100, 250, 500, 1000), etas=(0.0, 0.2, 0.5, 1.0), noisy_calls=100, images=10_000
    ),
    "calls": Grid(_EVERY, (5, 6, 8, 10, 15, 20, 50), SPACINGS, objectives=("gaussian", "network"), select=2000),
    "candidates": Grid((), tuple(range(1, 21)), select=2000, images=10_000, long=5000),
}


def references(bundle: ModelBundle) -> list[PlanSampler]:
    """What every study has: the baseline, the DDIM at 0 % of the gap, and one of many steps."""
    most = bundle.schedule.num_timesteps
    baseline, *ends = sampler_grid(bundle, sorted({min(ZERO_STEPS, most), min(FINE_STEPS, most)}), (0.0,), (DDIMSampler,))
    return [baseline, *ends]


def named_rows(bundle: ModelBundle, grid: Grid) -> list[Row]:
    """The references, then the grid's samplers over named spacings, those left out that give fewer timesteps than asked for."""
    calls = [n for n in grid.calls if n <= bundle.schedule.num_timesteps]
    kinds = [partial(MAKERS[name], spacing=spacing) for name in grid.samplers for spacing in grid.spacings]
    made = sampler_grid(bundle, calls, grid.etas, kinds, eta_max_steps=grid.noisy_calls)[1:]
    spaced = [s for s in made if not s.coefficients.plan.adds_noise or s.nfe <= _NOISY_SPACED or spacing_of(s) == "trailing"]
    every = [*references(bundle), *(sampler for sampler in spaced if sampler.nfe == sampler.steps)]
    return [Row(sampler, label) for label, sampler in labelled(list(dict.fromkeys(every))).items()]


def listed_rows(bundle: ModelBundle, grid: Grid, search: Search, only: Sequence[str]) -> tuple[list[Row], bool]:
    """A row for each list that gained, and whether all searches are done."""
    calls = [n for n in grid.calls if n <= bundle.schedule.num_timesteps]
    found = search.all_of(grid.samplers, calls, grid.objectives, only=only or grid.samplers)
    rows = list[Row]()
    for x in found:
        if x is not None and x.gained:
            sampler = bundle.sampler(MAKERS[x.sampler], timesteps=x.timesteps)
            label = label_of(sampler).replace(" list", f" {x.kind} list")
            rows.append(Row(sampler, label, search={"objective": x.kind, "gained": True, **x.about}))
    return rows, None not in found


def learned_rows(bundle: ModelBundle) -> list[Row]:
    """A row for each learned table that the package ships for the model."""
    sha256 = bundle.weights_sha256()
    tables = [table for table in shipped_tables(bundle.name) if table.origin.model["sha256"] == sha256]
    return [Row(table, label_of(table), search={"learned": table.origin.objective}) for table in tables]


def candidate_rows(since: Study | None, grid: Grid) -> list[Row]:
    """The rows that an earlier study chose of some numbers of calls, with the metrics that chose."""
    if since is None:
        raise DDIMKitError("candidates are those of an earlier study: name it with --since")
    found = chosen(row for row in since.rows if row.calls in grid.calls)
    if any(after > grid.select for row in found if row.selection for _, after in row.selection.seeds):
        raise DDIMKitError(f"seeds from {grid.select} on chose some of these candidates: --select must be larger")
    return [replace(row, quality=None, source="") for row in found]


def chosen(rows: Iterable[Row]) -> list[Row]:
    """Of each number of calls the best row, the best refinable one and the best named spacing, by the seeds that choose."""
    found = list[Row]()
    for _, same in itertools.groupby(sorted(rows, key=lambda row: row.calls), lambda row: row.calls):
        equal = [row for row in same if row.selection is not None]
        refinable, named = [row for row in equal if row.refinable], [row for row in equal if not row.search]
        found += [min(group, key=_selected) for group in (equal, refinable, named) if group]
    return list(dict.fromkeys(found))


def _selected(row: Row) -> float:
    assert row.selection is not None
    return row.selection.kernel.value
