"""How the pictures look: figures, axes, colours; matplotlib is imported when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddimkit.tradeoff.results import TradeoffCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BASE", "COLOURS", "INK", "SOFT", "new_figure", "new_panels", "place", "save_figure", "style", "whiskers"]

INK, BASE, SOFT = "#1f4e79", "#b5482f", "#8a8f98"
COLOURS = ("#1f4e79", "#2a9d8f", "#e0a030", "#b5482f", "#6a4c93", "#8a8f98", "#c46ea1", "#4c7a34", "#222222")
_DPI = 130


def whiskers(measured: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """How far whiskers reach below and above each (value, low, high); 0 where the value itself lies outside."""
    below = [max(0.0, value - low) for value, low, _ in measured]
    above = [max(0.0, high - value) for value, _, high in measured]
    return below, above


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one styled pair of axes, in inches."""
    figure, (axes,) = new_panels(width, height, 1)
    return figure, axes


def new_panels(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with styled pairs of axes, row by row, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        style(axes)
    return figure, panels


def style(axes: Axes) -> None:
    """Quiet axes: no box, a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def place(curve: TradeoffCurve) -> str:
    """What the sweep ran on."""
    return str(curve.machine.get("gpu") or curve.machine["processor"])


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure; returns its path."""
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", pad_inches=0.1)
    return path
