"""The cells of a study's tables, shared by the page, the Markdown text and the terminal."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate
from ddimkit.tradeoff.gap import Gap
from ddimkit.tradeoff.recommend import Recommendation, describe
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import speedup
from ddimkit.tradeoff.wording import decimal, duration, with_margin

__all__ = ["MISSING", "Column", "cells", "columns", "facts", "percent", "shown_columns"]

MISSING = "–"
"""Stands in the cells of what was not measured."""


@dataclass(frozen=True)
class Column:
    """A column of the results: its head, what it holds of a row, and what rows are sorted by; None where not measured."""

    head: str
    text: Callable[[Row, Study], str | None]
    key: Callable[[Row, Study], float | str | None]


def columns(study: Study) -> tuple[str, ...]:
    """Heads of the columns that hold anything in this study."""
    return tuple(column.head for column in shown_columns(study))


def cells(row: Row, study: Study) -> tuple[str, ...]:
    """A row as plain texts, one a column of :func:`columns`."""
    return tuple(column.text(row, study) or MISSING for column in shown_columns(study))


@lru_cache(maxsize=8)
def shown_columns(study: Study) -> tuple[Column, ...]:
    """The columns that hold anything in this study."""
    return tuple(column for column in _COLUMNS if any(column.text(row, study) for row in study.rows))


def _three(value: float) -> str:
    text = decimal(value, 3)
    return f"{int(text):,}" if text.isdigit() else text


def percent(share: Estimate | None) -> str | None:
    """A share of the gap with its 95 % interval, ``76 % (58–95)``; what is far below 0 without."""
    if share is None:
        return None
    if share.value < -1:
        return "below −100 %"
    low, high = (f"{100 * v:.0f}" for v in share.interval)
    reach = "" if share.low == share.high else f" ({low} to {high})"
    return f"{100 * share.value:.0f} %{reach}".replace("-", "−")


def _gain(row: Row, study: Study) -> str | None:
    base = study.base.times
    if row.times is None or base is None:
        return None
    if row.label == study.baseline:
        return "baseline"
    found = speedup(base, row.times)
    return f"{_three(found.ratio)}× ({_three(found.low)}–{_three(found.high)})"


def _gain_key(row: Row, study: Study) -> float | None:
    base = study.base.times
    return None if row.times is None or base is None else base.seconds / row.times.seconds


def _distance(row: Row, study: Study) -> str | None:
    del study
    return None if row.quality is None else f"{with_margin(row.quality.kernel)} ({row.quality.count:,})".replace("-", "−")


def _closed(row: Row, study: Study) -> Estimate | None:
    try:
        return None if row.quality is None else Gap(study).closed(row)
    except DDIMKitError:
        return None


def _closed_key(row: Row, study: Study) -> float | None:
    found = _closed(row, study)
    return None if found is None else found.value


def _seconds(row: Row, study: Study) -> float | None:
    del study
    return None if row.times is None else row.times.seconds


def _sample_ms(row: Row, study: Study) -> float | None:
    del study
    return None if row.times is None else 1e3 * row.times.per_sample_seconds


def _apart(row: Row, study: Study) -> float | None:
    del study
    return row.same_seed


def _source(row: Row, study: Study) -> str | None:
    """Where the metrics are from, without the machine."""
    return re.sub(r", [^;]*", "", row.source) if study.evaluated else None


def _shown(key: Callable[[Row, Study], float | None], form: Callable[[float], str]) -> Callable[[Row, Study], str | None]:
    """The text of a number, where there is one."""

    def text(row: Row, study: Study) -> str | None:
        value = key(row, study)
        return None if value is None else form(value)

    return text


_COLUMNS = (
    Column("configuration", lambda row, _: row.label, lambda row, _: row.label),
    Column("calls", lambda row, _: f"{row.calls:,}", lambda row, _: row.calls),
    Column("seconds", _shown(_seconds, _three), _seconds),
    Column("ms a sample", _shown(_sample_ms, _three), _sample_ms),
    Column("speed-up", _gain, _gain_key),
    Column("kernel distance (images)", _distance, lambda row, _: None if row.quality is None else row.quality.kernel.value),
    Column("gap closed", lambda row, study: percent(_closed(row, study)), _closed_key),
    Column("same-seed distance", _shown(_apart, "{:.3f}".format), _apart),
    Column("source", _source, lambda row, _: row.source),
)


def facts(found: Recommendation, study: Study) -> dict[str, str]:
    """What a recommendation comes to, in words: its calls, how long it takes, how much faster that is, how near it comes, how sure.

    Times of a number of calls that was not run itself are those of the row it rests on, in proportion to the calls.
    """
    row = next((r for r in study.rows if r.sampler == found.sampler), found.row)
    said = {"sampler": describe(found.sampler), "calls": f"{found.calls:,}"}
    if row is not None and row.times is not None:
        scale, about = found.calls / row.calls, "" if row.calls == found.calls else "about "
        said["time a sample"] = about + duration(scale * row.times.per_sample_seconds)
        if study.base.times is not None:
            gain = speedup(study.base.times, row.times)
            ratio, low, high = (_three(v / scale) for v in (gain.ratio, gain.low, gain.high))
            said["speed-up"] = f"{about}{ratio}× ({low}–{high})"
    said["gap closed"] = percent(found.closed) or "no gap is known"
    more = "" if found.images_needed is None else f", about {found.images_needed:,} images would tell"
    said["known"] = "yes" if found.known else f"no{more}"
    return said
