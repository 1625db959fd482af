"""The charts of time: of a run of each row, and of the speed-up against calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddimkit.tradeoff.fit import time_fit
from ddimkit.tradeoff.gap import is_plain_ddim
from ddimkit.tradeoff.report.style import BASE, COLOURS, SOFT, Chart, log_axis, new_figure, short
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import speedup
from ddimkit.tradeoff.wording import decimal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bars", "sample_seconds", "speedups"]


def sample_seconds(row: Row) -> float:
    """Seconds a sample of a timed row."""
    assert row.times is not None
    return row.times.per_sample_seconds


def bars(study: Study, timed: Sequence[Row]) -> Chart:
    """Absolute time of each row."""
    ends = min(timed, key=sample_seconds), max(timed, key=sample_seconds)
    batch = ends[0].times.batch if ends[0].times is not None else 0
    spans = " to ".join(f"{decimal(sample_seconds(row) * batch, 3)} s ({row.label})" for row in ends)
    return Chart(
        "time",
        "Time of a run",
        f"Seconds for {batch} samples, on a log scale, beside the speed-up over {study.baseline}. Thin bars: quartiles "
        "of ten stretches.",
        f"A run of {batch} samples takes from {spans}.",
        lambda narrow: _draw_bars(study, timed, narrow=narrow),
    )


def _draw_bars(study: Study, timed: Sequence[Row], *, narrow: bool) -> Figure:
    figure, (axes,) = new_figure(0.9 + 0.25 * len(timed), narrow=narrow)
    for y, row in enumerate(timed):
        assert row.times is not None
        seconds, (low, high) = row.times.seconds, row.times.quartiles
        reach = [[max(0.0, seconds - low)], [max(0.0, high - seconds)]]
        axes.barh(y, seconds, xerr=reach, color=BASE if row.label == study.baseline else COLOURS[0], ecolor=SOFT, height=0.7)
        gain = f" · {_gain(study, row)}" if study.base.times is not None and row is not study.base and not narrow else ""
        axes.annotate(f"{decimal(seconds, 3)} s{gain}", (max(seconds, high), y), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(timed)), [short(row.label) for row in timed])
    axes.set_ylim(len(timed) - 0.4, -0.6)
    known = [row.times.seconds for row in timed if row.times is not None]
    axes.set_xlim(min(known) / 2, max(known) * (8 if narrow else 5))
    log_axis(axes, "x")
    axes.set_xlabel("seconds (log scale)")
    axes.grid(axis="y", visible=False)
    return figure


def speedups(study: Study, timed: Sequence[Row]) -> Chart:
    """Speed-up over the baseline against calls, on log-log axes, with the fit of the time."""
    fit, plain = time_fit(study), [row for row in timed if is_plain_ddim(row)]
    fitted = "" if fit is None else f" Time grows as calls to the power {fit.slope:.3f} (R² {fit.r_squared:.4f})."
    gains = ", ".join(f"{_gain(study, row)} at {row.calls}" for row in plain)
    return Chart(
        "speedup",
        "Speed-up against calls",
        f"How many times faster than {study.baseline} with a given number of model calls, on log-log axes. On a line of slope −1, "
        f"half the calls take half the time.{fitted}",
        f"Speed-up over {study.baseline}" + (f", DDIM: {gains}." if plain else ".") + fitted,
        lambda narrow: _draw_speedups(study, timed, narrow=narrow),
    )


def _gain(study: Study, row: Row) -> str:
    return f"{sample_seconds(study.base) / sample_seconds(row):.3g}×"


def _draw_speedups(study: Study, timed: Sequence[Row], *, narrow: bool) -> Figure:
    figure, (axes,) = new_figure(4.4, narrow=narrow)
    base, plain = study.base.times, [row for row in timed if is_plain_ddim(row)]
    assert base is not None
    others = [row for row in timed if row not in plain and row is not study.base]
    for rows, colour, name, mark in ((others, SOFT, "others", "x"), (plain, COLOURS[0], "DDIM", "o")):
        found = [speedup(base, row.times) for row in rows if row.times is not None]
        reach = [[s.ratio - s.low for s in found], [s.high - s.ratio for s in found]]
        if rows:
            places = [row.calls for row in rows], [s.ratio for s in found]
            axes.errorbar(*places, yerr=reach, fmt=mark, color=colour, capsize=2, markersize=5, elinewidth=0.8, label=name)
    axes.plot([study.base.calls], [1.0], "*", color=BASE, markersize=10, label=f"{short(study.baseline)} (baseline)")
    fit, ends = time_fit(study), [min(row.calls for row in timed), max(row.calls for row in timed)]
    if fit is not None:
        label = f"DDIM: time ∝ calls^{fit.slope:.3f}, R² {fit.r_squared:.4f}"
        axes.plot(ends, [base.seconds / fit(n) for n in ends], color=COLOURS[0], linewidth=1, alpha=0.7, zorder=1, label=label)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel("model calls (log scale)")
    axes.set_ylabel(f"speed-up over {short(study.baseline)} (log scale)")
    figure.legend(loc="outside lower center", ncols=1 if narrow else 4)
    for row in plain:
        place = row.calls, sample_seconds(study.base) / sample_seconds(row)
        axes.annotate(_gain(study, row), place, (7, 3), textcoords="offset points", color=SOFT)
    return figure
