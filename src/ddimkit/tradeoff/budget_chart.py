"""The picture of quality against model calls, for samplers and timestep lists; matplotlib is imported when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy
from ddimkit.tradeoff.figures import BASE, COLOURS, new_panels, save_figure, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_budget"]

_COLUMNS = 3
_MARGIN, _ABOVE = 1.8, 10  # room beside the lines for the references' names, and above them for a legend
_MARKS = "os^Dvph*"
_TRAILING = "trailing"


def draw_budget(study: BudgetStudy, path: Path) -> Path:
    """Kernel distance against model calls: a panel for each sampler with several lists, and one of all samplers over trailing.

    The study's references are bands of their 95 % intervals.

    Args:
        study: the results.
        path: of the picture.

    Returns:
        the path.
    """
    results, references = [r for r in study.results if r.calls in study.budgets], study.references
    samplers = list(dict.fromkeys(r.sampler for r in results))
    several = [name for name in samplers if len({r.spacing for r in results if r.sampler == name}) > 1]
    columns = min(_COLUMNS, len(several) + 1)
    rows = -(-(len(several) + 1) // columns)
    figure, panels = new_panels(4.2 * columns, 3.5 * rows, columns, rows)
    trailing = {name: _line(results, name, _TRAILING) for name in samplers}
    _draw(panels[0], "every sampler, trailing", trailing, references)
    panels[0].legend(frameon=False, fontsize=7, loc="upper right", ncols=2)
    panels[0].set_ylim(top=panels[0].get_ylim()[1] * _ABOVE)
    spacings = sorted({r.spacing for r in results}, key=_order)
    for axes, name in zip(panels[1:], several, strict=False):
        _draw(axes, name, {spacing: _line(results, name, spacing) for spacing in spacings}, references)
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


def _draw(axes: Axes, title: str, lines: Mapping[str, Sequence[BudgetResult]], references: Mapping[str, BudgetResult]) -> None:
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
    for i, (name, kernel) in enumerate((name, r.quality.kernel) for name, r in references.items()):
        low, high = kernel.interval()
        axes.axhspan(low, high, color=BASE, alpha=0.12, lw=0)
        place, side = ((0.99, "right"), (0.01, "left"))[i % 2]  # by turns, for some are nearly equal
        axes.annotate(name, (place, kernel.value), xycoords=("axes fraction", "data"), ha=side, fontsize=7, color=BASE)
    calls = sorted({r.calls for line in shown.values() for r in line})
    axes.set_title(title, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(calls[0] / _MARGIN, calls[-1] * _MARGIN)
    axes.set_xticks(calls, [str(n) for n in calls])
    axes.minorticks_off()
    _value_axis(axes, [r for line in shown.values() for r in line])
    axes.set_xlabel("model calls", fontsize=8)
    axes.set_ylabel("kernel distance", fontsize=8)


def _value_axis(axes: Axes, shown: Sequence[BudgetResult]) -> None:
    """Logarithmic; linear near 0 where an interval holds it."""
    intervals = [r.quality.kernel.interval() for r in shown]
    low, high = min(one for one, _ in intervals), max(other for _, other in intervals)
    narrowest = min(other - one for one, other in intervals) / 2
    linear = 10.0 ** round(math.log10(max(1e-6, narrowest)))  # where there is a tick, so that none are close to 0
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 2, high * 2)
    else:
        axes.set_yscale("symlog", linthresh=linear)
        axes.set_ylim(1.5 * min(low, -linear), high * 2)
