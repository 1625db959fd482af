"""The picture of quality against model calls, for samplers and timestep lists; matplotlib is imported when it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddimkit.quality.measure import Quality
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy
from ddimkit.tradeoff.figures import BASE, COLOURS, new_panels, save_figure, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_budget"]

_COLUMNS = 3
_MARKS = "os^Dvph*"
_TRAILING = "trailing"


def draw_budget(study: BudgetStudy, path: Path, references: Mapping[str, Quality]) -> Path:
    """Kernel distance against model calls: a panel for each sampler with several lists, and one of all samplers over trailing.

    Args:
        study: the results.
        path: of the picture.
        references: drawn as bands of their 95 % intervals, by their name.

    Returns:
        the path.
    """
    samplers = list(dict.fromkeys(r.sampler for r in study.results))
    several = [name for name in samplers if len({r.spacing for r in study.results if r.sampler == name}) > 1]
    columns = min(_COLUMNS, len(several) + 1)
    rows = -(-(len(several) + 1) // columns)
    figure, panels = new_panels(4.2 * columns, 3.5 * rows, columns, rows)
    trailing = {name: _line(study.results, name, _TRAILING) for name in samplers}
    _draw(panels[0], "every sampler, trailing", trailing, references)
    panels[0].legend(frameon=False, fontsize=7, loc="lower right")
    spacings = sorted({r.spacing for r in study.results}, key=_order)
    for axes, name in zip(panels[1:], several, strict=False):
        _draw(axes, name, {spacing: _line(study.results, name, spacing) for spacing in spacings}, references)
    for axes in panels[len(several) + 1 :]:
        axes.set_axis_off()
    _legend(figure, panels, spacings)
    figure.suptitle(f"Quality at equal model calls: {study.model['name']}", fontsize=10)
    return save_figure(figure, path)


def _legend(figure: Figure, panels: Sequence[Axes], spacings: Sequence[str]) -> None:
    """One for the spacings of all panels, which have the same marks everywhere."""
    shown = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in panels[1:]]
    handles = {spacing: known[spacing] for spacing in spacings for known in shown if spacing in known}
    if handles:
        texts = list(handles)
        figure.legend(list(handles.values()), texts, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def _order(spacing: str) -> tuple[bool, bool, str]:
    return spacing in SEARCHED, spacing != _TRAILING, spacing


def _line(results: Iterable[BudgetResult], sampler: str, spacing: str) -> list[BudgetResult]:
    return sorted((r for r in results if (r.sampler, r.spacing) == (sampler, spacing)), key=lambda r: r.calls)


def _draw(axes: Axes, title: str, lines: Mapping[str, Sequence[BudgetResult]], references: Mapping[str, Quality]) -> None:
    shown = {name: line for name, line in lines.items() if line}
    for i, (name, line) in enumerate(lines.items()):
        if not line:
            continue
        known = [r.quality.kernel for r in line]
        reach = whiskers([(e.value, *e.interval()) for e in known])
        # Side by side, so that whiskers at equal calls do not hide one another.
        places = [r.calls * 1.02 ** (i - (len(lines) - 1) / 2) for r in line]
        mark, colour = _MARKS[i % len(_MARKS)], COLOURS[i % len(COLOURS)]
        style = "-" if name not in SEARCHED else "--"
        axes.errorbar(
            places, [e.value for e in known], yerr=reach, fmt=mark + style, color=colour, capsize=2, lw=1, ms=3.5, label=name
        )
    for i, (name, quality) in enumerate(references.items()):
        low, high = quality.kernel.interval()
        axes.axhspan(low, high, color=BASE, alpha=0.12, lw=0)
        place, side = ((0.99, "right"), (0.01, "left"))[i % 2]  # by turns, for some are nearly equal
        axes.annotate(name, (place, quality.kernel.value), xycoords=("axes fraction", "data"), ha=side, fontsize=7, color=BASE)
    calls = sorted({r.calls for line in shown.values() for r in line})
    axes.set_title(title, fontsize=9)
    axes.set_xscale("log")
    axes.set_xticks(calls, [str(n) for n in calls])
    axes.minorticks_off()
    _value_axis(axes, [r for line in shown.values() for r in line])
    axes.set_xlabel("model calls", fontsize=8)
    axes.set_ylabel("kernel distance", fontsize=8)


def _value_axis(axes: Axes, shown: Sequence[BudgetResult]) -> None:
    """Logarithmic; linear near 0 where an interval holds it."""
    intervals = [r.quality.kernel.interval() for r in shown]
    low = min(one for one, _ in intervals)
    if low > 0:
        axes.set_yscale("log")
        return
    axes.set_yscale("symlog", linthresh=max(1e-6, min(high - low for low, high in intervals) / 2))
