"""The charts of a study: quality against time and calls, the time of a run, and the speed-up against calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddimkit.quality.estimate import Estimate
from ddimkit.tradeoff.fit import time_fit
from ddimkit.tradeoff.gap import is_plain_ddim
from ddimkit.tradeoff.report.samples import draw_samples, drawable
from ddimkit.tradeoff.report.style import BASE, COLOURS, INK, MARKS, SOFT, Chart, log_axis, new_figure, save_png, short
from ddimkit.tradeoff.rows import Row, kind_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import speedup
from ddimkit.tradeoff.wording import decimal, duration, with_margin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["charts_of", "draw_charts", "front", "kinds"]

Cost = Callable[[Row], float]
"""What a row costs: its calls, or its time."""

_LINES = len(COLOURS)


def charts_of(study: Study) -> list[Chart]:
    """The charts that a study has the data for."""
    measured = [row for row in study.evaluated if row.times is not None]
    timed = [row for row in study.rows if row.times is not None]
    return [
        *([_quality(study, measured, "time", "seconds a sample", _seconds)] if len(measured) > 1 else []),
        *([_quality(study, study.evaluated, "calls", "model calls", _calls)] if len(study.evaluated) > 1 else []),
        *([_bars(study, timed)] if timed else []),
        *([_speedups(study, timed)] if study.base.times is not None and len(timed) > 1 else []),
    ]


def draw_charts(study: Study, folder: str | Path) -> list[Path]:
    """Write each chart, and the samples, as PNG; what an earlier study left there under the same names goes.

    Args:
        study: whose.
        folder: where to.

    Returns:
        the files.
    """
    folder, wanted = Path(folder), {chart.name: partial(chart.draw, False) for chart in charts_of(study)}
    if drawable(study):
        wanted["samples"] = partial(draw_samples, study)
    for name in ("quality-time", "quality-calls", "time", "speedup", "samples"):
        if name not in wanted:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return [save_png(draw, folder / f"{name}.png") for name, draw in wanted.items()]


def kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they differ from others in beside their calls: kind of sampler, eta, spacing; by rising calls."""
    found = dict[str, list[Row]]()
    for row in sorted(rows, key=lambda row: row.calls):
        found.setdefault(kind_of(row.sampler), []).append(row)
    return found


def front(rows: Sequence[Row], cost: Cost) -> list[Row]:
    """The Pareto front: rows of which more is known than of every row that costs no more, by the upper ends of the intervals."""
    found = list[Row]()
    for row in sorted(rows, key=lambda row: (cost(row), _kernel(row).high)):
        if not found or _kernel(row).high < _kernel(found[-1]).high:
            found.append(row)
    return found


def _kernel(row: Row) -> Estimate:
    assert row.quality is not None
    return row.quality.kernel


def _calls(row: Row) -> float:
    return row.calls


def _quality(study: Study, rows: Sequence[Row], name: str, unit: str, cost: Cost) -> Chart:
    best = front(rows, cost)
    form = duration if name == "time" else "{:.0f} calls".format
    named = ", ".join(f"{row.label} ({form(cost(row))}, {with_margin(_kernel(row))})" for row in best)
    return Chart(
        f"quality-{name}",
        f"Quality against {'time' if name == 'time' else 'model calls'}",
        f"Lower is nearer to real images, further left is {'faster' if name == 'time' else 'fewer calls'}. Bars are 95 % "
        "intervals; where they overlap, the order may be chance. Rings and the stepped line are the Pareto front by the upper ends "
        f"of the intervals: no cheaper row is known to be as near. On the front: {named}.",
        f"Kernel distance to real images against {unit}. Pareto front: {named}.",
        lambda narrow: _draw_quality(study, rows, cost, unit, narrow=narrow),
    )


def _draw_quality(study: Study, rows: Sequence[Row], cost: Cost, unit: str, *, narrow: bool) -> Figure:
    figure, axes = new_figure(5.4 if narrow else 4.8, narrow=narrow)
    lines = kinds([row for row in rows if row.label != study.baseline])
    first = sorted((name for name in lines if len(lines[name]) > 1), key=lambda name: -len(lines[name]))[:_LINES]
    shown = {name: lines[name] for name in lines if name in first}
    for i, (name, line) in enumerate(shown.items()):
        _whiskers(axes, line, cost, _kernel, fmt=f"{MARKS[i]}-", color=COLOURS[i], label=short(name))
    rest = [row for name, line in lines.items() if name not in first for row in line]
    if rest:
        _whiskers(axes, rest, cost, _kernel, fmt="x", color=SOFT, label="others")
    if study.base in rows:
        label = f"{short(study.baseline)} (baseline)"
        _whiskers(axes, [study.base], cost, _kernel, fmt="*", color=BASE, label=label, markersize=10)
    best = front(rows, cost)
    costs, values = [cost(row) for row in best], [_kernel(row).value for row in best]
    steps = [*costs, max(map(cost, rows))], [*values, values[-1]]
    axes.plot(*steps, drawstyle="steps-post", color=INK, linewidth=3, alpha=0.25, zorder=0, label="Pareto front")
    axes.plot(costs, values, "o", color=INK, markersize=13, markerfacecolor="none", zorder=0)
    log_axis(axes, "x")
    _value_axis(axes, rows)
    axes.set_xlabel(f"{unit} (log scale)")
    axes.set_ylabel("kernel distance to real images")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[1:] + handles[:1], names[1:] + names[:1], loc="outside lower center", ncols=2 if narrow else 4)
    return figure


def _whiskers(axes: Axes, rows: Sequence[Row], cost: Cost, value: Callable[[Row], Estimate], **style: Any) -> None:
    """Points with their 95 % intervals."""
    known = [value(row) for row in rows]
    reach = [[e.value - e.low for e in known], [e.high - e.value for e in known]]
    settings: dict[str, Any] = {"capsize": 2, "linewidth": 1, "elinewidth": 0.8, "markersize": 4.5, **style}
    axes.errorbar([cost(row) for row in rows], [e.value for e in known], yerr=reach, **settings)


def _value_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Logarithmic; linear near 0 where an interval reaches it."""
    known = [_kernel(row) for row in rows]
    low, high = min(e.low for e in known), max(e.high for e in known)
    if low > 0:
        axes.set_ylim(low / 1.5, high * 1.5)
        log_axis(axes, "y")
        return
    linear = 10.0 ** round(math.log10(max(1e-9, high / 1e5, min(e.high for e in known if e.low <= 0))))
    log_axis(axes, "y", linear=linear)
    axes.set_ylim(low - 0.15 * max(linear, -low), max(1.5 * high, 1.2 * linear))


def _seconds(row: Row) -> float:
    """Seconds a sample of a timed row."""
    assert row.times is not None
    return row.times.per_sample_seconds


def _bars(study: Study, timed: Sequence[Row]) -> Chart:
    """Absolute time of each row."""
    ends = min(timed, key=_seconds), max(timed, key=_seconds)
    batch = ends[0].times.batch if ends[0].times is not None else 0
    spans = " to ".join(f"{decimal(_seconds(row) * batch, 3)} s ({row.label})" for row in ends)
    return Chart(
        "time",
        "Time of a run",
        f"Seconds for {batch} samples, on a log scale, beside the speed-up over {study.baseline}. Thin bars: quartiles "
        "of ten stretches.",
        f"A run of {batch} samples takes from {spans}.",
        lambda narrow: _draw_bars(study, timed, narrow=narrow),
    )


def _draw_bars(study: Study, timed: Sequence[Row], *, narrow: bool) -> Figure:
    figure, axes = new_figure(0.9 + 0.25 * len(timed), narrow=narrow)
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


def _speedups(study: Study, timed: Sequence[Row]) -> Chart:
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


def _speedup(study: Study, row: Row) -> Estimate:
    assert row.times is not None
    assert study.base.times is not None
    return speedup(study.base.times, row.times)


def _gain(study: Study, row: Row) -> str:
    return f"{_seconds(study.base) / _seconds(row):.3g}×"


def _draw_speedups(study: Study, timed: Sequence[Row], *, narrow: bool) -> Figure:
    figure, axes = new_figure(4.4, narrow=narrow)
    plain = [row for row in timed if is_plain_ddim(row)]
    others = [row for row in timed if row not in plain and row is not study.base]
    for rows, colour, name, mark in ((others, SOFT, "others", "x"), (plain, COLOURS[0], "DDIM", "o")):
        if rows:
            _whiskers(axes, rows, _calls, partial(_speedup, study), fmt=mark, color=colour, label=name)
    axes.plot([study.base.calls], [1.0], "*", color=BASE, markersize=10, label=f"{short(study.baseline)} (baseline)")
    fit, ends = time_fit(study), [min(row.calls for row in timed), max(row.calls for row in timed)]
    if fit is not None and study.base.times is not None:
        seconds = study.base.times.seconds
        label = f"DDIM: time ∝ calls^{fit.slope:.3f}, R² {fit.r_squared:.4f}"
        axes.plot(ends, [seconds / fit(n) for n in ends], color=COLOURS[0], linewidth=1, alpha=0.7, zorder=1, label=label)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel("model calls (log scale)")
    axes.set_ylabel(f"speed-up over {short(study.baseline)} (log scale)")
    figure.legend(loc="outside lower center", ncols=1 if narrow else 4)
    for row in plain:
        place = row.calls, _seconds(study.base) / _seconds(row)
        axes.annotate(_gain(study, row), place, (7, 3), textcoords="offset points", color=SOFT)
    return figure
