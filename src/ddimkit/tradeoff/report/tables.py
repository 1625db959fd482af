"""The cells of a study's tables, shared by the page, the Markdown text and the terminal."""

import re
from functools import lru_cache
from typing import NamedTuple

from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate
from ddimkit.samplers import DDIMSampler
from ddimkit.tradeoff.gap import Gap
from ddimkit.tradeoff.recommend import Recommendation, describe
from ddimkit.tradeoff.rows import Row, spacing_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import speedup
from ddimkit.tradeoff.wording import duration, share, three, with_margin

__all__ = ["MISSING", "Cell", "Table", "cells", "columns", "eta_table", "facts"]

MISSING = "–"
"""Stands in the cells of what was not measured."""

_HEADS = (
    "configuration",
    "calls",
    "seconds",
    "ms a sample",
    "speed-up",
    "kernel distance (images)",
    "gap closed",
    "same-seed distance",
    "source",
)


class Cell(NamedTuple):
    """A text, and what rows are sorted by; None where nothing was measured."""

    text: str
    key: float | str | None


class Table(NamedTuple):
    """What a table shows, its heads, and the texts of its rows."""

    caption: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


@lru_cache(maxsize=8)
def columns(study: Study) -> tuple[str, ...]:
    """Heads of the columns that hold anything in this study."""
    held = {head for row in study.rows for head in _measured(row, study)}
    return tuple(head for head in _HEADS if head in held)


def cells(row: Row, study: Study) -> tuple[Cell, ...]:
    """A row's cells, one a column of :func:`columns`."""
    found = _measured(row, study)
    return tuple(found.get(head, Cell(MISSING, None)) for head in columns(study))


def _measured(row: Row, study: Study) -> dict[str, Cell]:
    """By their heads the cells of what was measured."""
    found = {"configuration": Cell(row.label, row.label), "calls": Cell(f"{row.calls:,}", row.calls)}
    if row.times is not None:
        seconds, ms = row.times.seconds, 1e3 * row.times.per_sample_seconds
        found |= {"seconds": Cell(three(seconds), seconds), "ms a sample": Cell(three(ms), ms)}
        if study.base.times is not None:
            gain = speedup(study.base.times, row.times)
            found["speed-up"] = Cell("baseline" if row is study.base else _gain(gain), gain.value)
    if row.quality is not None:
        kernel, closed = row.quality.kernel, _closed(row, study)
        text = f"{with_margin(kernel)} ({row.quality.count:,})".replace("-", "−")
        found["kernel distance (images)"] = Cell(text, kernel.value)
        if closed is not None:
            found["gap closed"] = Cell(share(closed), closed.value)
    if row.same_seed is not None:
        found["same-seed distance"] = Cell(f"{row.same_seed:.3f}", row.same_seed)
    if study.evaluated:
        found["source"] = Cell(re.sub(r", [^;]*", "", row.source), row.source)  # without the machine
    return found


def _gain(gain: Estimate) -> str:
    return f"{three(gain.value)}× ({three(gain.low)}–{three(gain.high)})"


def _closed(row: Row, study: Study) -> Estimate | None:
    try:
        return Gap(study).closed(row)
    except DDIMKitError:
        return None


def eta_table(study: Study) -> Table | None:
    """DDIM by its number of steps and eta; None where no number of steps was measured with several."""
    found = dict[int, dict[float, str]]()
    for row in study.rows:
        if isinstance(row.sampler, DDIMSampler) and spacing_of(row.sampler) == "trailing" and (row.quality or row.times):
            quality = [] if row.quality is None else [with_margin(row.quality.kernel).replace("-", "−")]
            time = [] if row.times is None else [duration(row.times.per_sample_seconds)]
            found.setdefault(row.calls, {})[row.sampler.eta] = ", ".join(quality + time)
    lines = {calls: line for calls, line in sorted(found.items()) if len(line) > 1}
    if not lines:
        return None
    etas = sorted({eta for line in lines.values() for eta in line})
    shown = " and ".join(["kernel distance"] * bool(study.evaluated) + ["time a sample"] * any(row.times for row in study.rows))
    return Table(
        f"DDIM's {shown} by its number of steps and eta. Eta 0 adds no noise, eta 1 as much as DDPM.",
        ("steps", *(f"eta {eta:g}" for eta in etas)),
        [(f"{calls:,}", *(line.get(eta, MISSING) for eta in etas)) for calls, line in lines.items()],
    )


def facts(found: Recommendation, study: Study) -> dict[str, str]:
    """What a recommendation comes to, in words: its calls, how long it takes, how much faster that is, how near it comes, how sure.

    Times of a number of calls that was not run itself are those of the row it rests on, in proportion to the calls.
    """
    row = next((r for r in study.rows if r.sampler == found.sampler), found.row)
    said = {"sampler": describe(found.sampler), "calls": f"{found.calls:,}"}
    if row is not None and row.times is not None:
        run, about = row.times.scaled(found.calls / row.calls), "" if row.calls == found.calls else "about "
        said["time a sample"] = about + duration(run.per_sample_seconds)
        if study.base.times is not None:
            said["speed-up"] = about + _gain(speedup(study.base.times, run))
    said["gap closed"] = "no gap is known" if found.closed is None else share(found.closed)
    more = "" if found.images_needed is None else f", about {found.images_needed:,} images would tell"
    said["known"] = "yes" if found.known else f"no{more}"
    return said
