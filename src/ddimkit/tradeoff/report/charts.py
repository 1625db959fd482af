"""The charts of a study: which there are, and those of quality and eta."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ddimkit.quality.estimate import Estimate
from ddimkit.tradeoff.report.samples import draw_samples, drawable
from ddimkit.tradeoff.report.style import BASE, COLOURS, INK, MARKS, SOFT, Chart, log_axis, new_figure, save_png, short
from ddimkit.tradeoff.report.time_charts import bars, sample_seconds, speedups
from ddimkit.tradeoff.rows import Row, family, spacing_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.wording import duration, with_margin

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
        *([_quality(study, measured, "time", "seconds a sample", sample_seconds)] if len(measured) > 1 else []),
        *([_quality(study, study.evaluated, "calls", "model calls", _calls)] if len(study.evaluated) > 1 else []),
        *([bars(study, timed)] if timed else []),
        *([speedups(study, timed)] if study.base.times is not None and len(timed) > 1 else []),
        *_eta(study),
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
    for name in ("quality-time", "quality-calls", "time", "speedup", "eta", "samples"):
        if name not in wanted:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return [save_png(draw, folder / f"{name}.png") for name, draw in wanted.items()]


def kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they differ from others in beside their calls: kind of sampler, eta, spacing; by rising calls."""
    found = dict[str, list[Row]]()
    for row in sorted(rows, key=lambda row: row.calls):
        eta, spacing, name = getattr(row.sampler, "eta", 0.0), spacing_of(row.sampler), family(row.sampler)
        parts = [name, *([f"eta {eta:g}"] if eta and "SDE" not in name else []), *([] if spacing == "trailing" else [spacing])]
        found.setdefault(" ".join(parts), []).append(row)
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


def _distance(row: Row) -> float:
    return _kernel(row).value


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
    figure, (axes,) = new_figure(5.4 if narrow else 4.8, narrow=narrow)
    lines = kinds([row for row in rows if row.label != study.baseline])
    first = sorted((name for name in lines if len(lines[name]) > 1), key=lambda name: -len(lines[name]))[:_LINES]
    shown = {name: lines[name] for name in lines if name in first}
    for i, (name, line) in enumerate(shown.items()):
        _whiskers(axes, line, cost, fmt=f"{MARKS[i]}-", color=COLOURS[i], label=short(name))
    rest = [row for name, line in lines.items() if name not in first for row in line]
    if rest:
        _whiskers(axes, rest, cost, fmt="x", color=SOFT, label="others")
    if study.base in rows:
        _whiskers(axes, [study.base], cost, fmt="*", color=BASE, label=f"{short(study.baseline)} (baseline)", markersize=10)
    best = front(rows, cost)
    far = max(map(cost, rows))
    steps = [*map(cost, best), far], [*map(_distance, best), _distance(best[-1])]
    axes.plot(*steps, drawstyle="steps-post", color=INK, linewidth=3, alpha=0.25, zorder=0, label="Pareto front")
    axes.plot(steps[0][:-1], steps[1][:-1], "o", color=INK, markersize=13, markerfacecolor="none", zorder=0)
    log_axis(axes, "x")
    _value_axis(axes, rows)
    axes.set_xlabel(f"{unit} (log scale)")
    axes.set_ylabel("kernel distance to real images")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[1:] + handles[:1], names[1:] + names[:1], loc="outside lower center", ncols=2 if narrow else 4)
    return figure


def _whiskers(axes: Axes, rows: Sequence[Row], cost: Cost, *, fmt: str, color: str, label: str, markersize: float = 4.5) -> None:
    known = [_kernel(row) for row in rows]
    reach = [[e.value - e.low for e in known], [e.high - e.value for e in known]]
    values = list(map(_distance, rows))
    settings = {"fmt": fmt, "color": color, "label": label, "markersize": markersize}
    axes.errorbar(list(map(cost, rows)), values, yerr=reach, capsize=2, linewidth=1, elinewidth=0.8, **settings)  # type: ignore[arg-type]


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


def _eta(study: Study) -> list[Chart]:
    """The chart of eta, where some number of calls ran with several."""
    several = dict[int, list[tuple[float, Row]]]()
    for row in study.rows:
        if family(row.sampler) == "DDIM" and spacing_of(row.sampler) == "trailing" and row.label != study.baseline:
            several.setdefault(row.calls, []).append((getattr(row.sampler, "eta", 0.0), row))
    lines = {calls: sorted(line, key=lambda pair: pair[0]) for calls, line in sorted(several.items()) if len(line) > 1}
    rows = [row for line in lines.values() for _, row in line]
    timed, evaluated = all(row.times for row in rows), all(row.quality for row in rows)
    if not rows or not (timed or evaluated):
        return []
    shown = " and ".join(["time a sample"] * timed + ["kernel distance to real images"] * evaluated)
    counts, values = ", ".join(map(str, lines)), ", ".join(sorted({f"{eta:g}" for line in lines.values() for eta, _ in line}))
    return [
        Chart(
            "eta",
            "What eta changes",
            f"DDIM's {shown} by eta, a line for each number of calls. Eta 0 adds no noise, eta 1 as much as DDPM.",
            f"DDIM's {shown} at eta {values}, with {counts} calls.",
            lambda narrow: _draw_eta(lines, timed=timed, evaluated=evaluated, narrow=narrow),
        )
    ]


def _draw_eta(lines: dict[int, list[tuple[float, Row]]], *, timed: bool, evaluated: bool, narrow: bool) -> Figure:
    panels = timed + evaluated
    figure, found = new_figure(3.0 * panels + 0.6 if narrow else 3.8, narrow=narrow, panels=panels)
    rows = [row for line in lines.values() for _, row in line]
    etas = {row.label: eta for line in lines.values() for eta, row in line}
    for i, (calls, line) in enumerate((calls, [row for _, row in line]) for calls, line in lines.items()):
        fmt, colour, name = f"{MARKS[i % _LINES]}-", COLOURS[i % _LINES], f"{calls} calls"
        if timed:
            seconds = [sample_seconds(row) for row in line]
            found[0].plot([etas[row.label] for row in line], seconds, fmt, linewidth=1, color=colour, label=name)
        if evaluated:
            _whiskers(found[-1], line, lambda row: etas[row.label], fmt=fmt, color=colour, label=name)
    if timed:
        log_axis(found[0], "y")
        found[0].set_ylabel("seconds a sample (log scale)")
    if evaluated:
        _value_axis(found[-1], rows)
        found[-1].set_ylabel("kernel distance to real images")
    for axes in found:
        axes.set_xlabel("eta")
    handles, labels = found[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(lines)) if not narrow else 3)
    return figure
