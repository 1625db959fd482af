"""The picture of quality against steps; matplotlib is imported when it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddimkit.tradeoff.figures import BASE, COLOURS, SOFT, new_panels, place, save_figure, whiskers
from ddimkit.tradeoff.findings import lines
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_quality"]

_MARKS = "os^Dvph*"


def draw_quality(curve: TradeoffCurve, path: Path) -> Path:
    """Kernel distance against steps with 95 % intervals, a line for each sampler and eta, between floor, baseline and noise.

    Beside it, where it is known, the error that the real images' mean and covariance predict.
    """
    shown = [judged for line in lines(curve, every_eta=True) if (judged := [c for c in line if c.quality is not None])]
    predicted = any(c.predicted_distance is not None for line in shown for c in line)
    figure, panels = new_panels(11.4 if predicted else 7.6, 4.8, 1 + predicted)
    _draw_measured(panels[0], curve, shown)
    if predicted:
        _draw_predicted(panels[1], shown)
    figure.suptitle(f"Quality against steps: {curve.model['name']}, {place(curve)}", fontsize=10)
    return save_figure(figure, path)


def _draw_measured(axes: Axes, curve: TradeoffCurve, shown: list[list[ConfigurationResult]]) -> None:
    for i, line in enumerate(shown):
        _draw_line(axes, line, i, len(shown))
    _draw_level(axes, curve)
    low, linear = _linear_part([c for line in shown for c in line])
    if low > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=linear)
        axes.set_ylim(bottom=1.5 * min(low, -linear))
    _step_axis(axes, shown)
    axes.set_ylabel(f"kernel distance to real images (log scale{'' if low > 0 else f', linear below {linear:.1g}'})")
    axes.legend(frameon=False, fontsize=8)


def _draw_predicted(axes: Axes, shown: list[list[ConfigurationResult]]) -> None:
    for i, line in enumerate(shown):
        known = [(c.nfe, c.predicted_distance) for c in line if c.predicted_distance is not None]
        if known:
            nfe, values = zip(*known, strict=True)
            axes.plot(nfe, values, f"{_MARKS[i % len(_MARKS)]}-", color=COLOURS[i % len(COLOURS)], lw=1, ms=4)
    axes.set_yscale("log")
    _step_axis(axes, shown)
    axes.set_ylabel("predicted squared error, normal data")


def _step_axis(axes: Axes, shown: list[list[ConfigurationResult]]) -> None:
    steps = sorted({c.nfe for line in shown for c in line})
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps (model calls)")


def _linear_part(shown: list[ConfigurationResult]) -> tuple[float, float]:
    """The lowest end of an interval, and the smallest half-width of one: below it an axis that must show 0 is linear."""
    intervals = [c.quality.kernel.interval() for c in shown if c.quality is not None]
    return min(low for low, _ in intervals), max(1e-6, min(high - low for low, high in intervals) / 2)


def _draw_line(axes: Axes, line: list[ConfigurationResult], index: int, count: int) -> None:
    known = [c.quality.kernel for c in line if c.quality is not None]
    values, reach = [e.value for e in known], whiskers([(e.value, *e.interval()) for e in known])
    name = line[0].sampler.removesuffix("Sampler").replace("_", "-") + ("" if line[0].eta is None else f" eta {line[0].eta:g}")
    # Side by side, so that whiskers of equal step counts do not hide one another.
    places = [c.nfe * 1.03 ** (index - (count - 1) / 2) for c in line]
    style = f"{_MARKS[index % len(_MARKS)]}-"
    axes.errorbar(places, values, yerr=reach, fmt=style, color=COLOURS[index % len(COLOURS)], capsize=2, lw=1, ms=4, label=name)


def _draw_level(axes: Axes, curve: TradeoffCurve) -> None:
    """The baseline's distance as a band, the floor and noise as lines where they can be drawn on a log scale."""
    base = curve.baseline.quality
    if base is not None:
        low, high = base.kernel.interval()
        if low > 0:
            axes.axhspan(low, high, color=BASE, alpha=0.15, lw=0)
        axes.axhline(base.kernel.value, color=BASE, lw=1, ls="--", label=curve.baseline.label)
    for end, name in ((curve.floor, "real images (floor)"), (curve.noise, "noise")):
        if end is not None and end.kernel.value > 0:
            axes.axhline(end.kernel.value, color=SOFT, lw=0.8, ls=":")
            axes.annotate(
                f"{name} {end.kernel.value:.2g}", (1.0, end.kernel.value), xycoords=("axes fraction", "data"),
                xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=7, color=SOFT,
            )  # fmt: skip
