"""The one style of the charts: a wide and a narrow form, colours for light and dark; matplotlib is imported when one is drawn."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BASE",
    "COLOURS",
    "GRID",
    "INK",
    "MARKS",
    "SOFT",
    "Chart",
    "log_axis",
    "new_figure",
    "palette",
    "save_png",
    "short",
    "svg",
]

INK, SOFT, GRID, BASE = "#20242b", "#5d6470", "#dfe3e8", "#b02a37"
COLOURS = ("#1c5fae", "#00757f", "#357a2b", "#8a6500", "#b3500f", "#a8327d", "#6f45b5")
MARKS = "os^Dvph"
_VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", BASE: "base"} | {colour: f"line{i}" for i, colour in enumerate(COLOURS)}
_DARK = {INK: "#e7e9ec", SOFT: "#a6aeb9", GRID: "#343a43", BASE: "#ff8088"} | dict(
    zip(COLOURS, ("#79b4ff", "#52c7d4", "#7fcf78", "#dcb94a", "#f39a61", "#f08cc8", "#c3a4f6"), strict=True)
)
_LONGEST = 24
_WIDE, _NARROW = 7.6, 3.7  # inches, at 96 pixels each: a desktop's column and a phone's
_INKS = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(_INKS, INK),
    **dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.5),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "xtick.minor.pad": 5.0,
    "ytick.minor.pad": 5.0,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ddimkit",
}


@dataclass(frozen=True)
class Chart:
    """A chart of a study.

    Attributes:
        name: of its file.
        title: what it shows.
        caption: what to see in it.
        alt: its message, for those who do not see it.
        draw: the figure, in its wide or its narrow form.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[bool], Figure]


def palette() -> list[tuple[str, str, str]]:
    """Every colour of a chart: the name of its variable, its value on light and on dark."""
    return [(name, colour, _DARK[colour]) for colour, name in _VARIABLES.items()]


@contextmanager
def _styled() -> Generator[None]:
    """What is drawn and saved inside looks as all charts do; matplotlib's own settings are left as they are."""
    from matplotlib import rc_context, rcParamsDefault

    settings: Any = {**rcParamsDefault, **_SETTINGS, "backend": "agg"}
    with rc_context(settings):
        yield


def new_figure(height: float, *, narrow: bool) -> tuple[Figure, Axes]:
    """A figure of a height in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_NARROW if narrow else _WIDE, height), layout="constrained")
    return figure, figure.subplots()


def short(label: str) -> str:
    """A label that leaves room for the chart."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def log_axis(axes: Axes, which: Literal["x", "y"], *, linear: float | None = None) -> None:
    """A logarithmic x or y axis with plain numbers, at 1, 2 and 5 where there is room; linear up to ``linear`` to hold 0."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis, scale = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    if linear is None:
        scale("log", subs=[2, 5])
    else:
        scale("symlog", linthresh=linear)
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(FuncFormatter(_plain))
    if linear is not None or not _has_room(axes, which):
        axis.set_minor_locator(NullLocator())


def _has_room(axes: Axes, which: Literal["x", "y"]) -> bool:
    """Whether three numbers a decade fit along an axis."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    size = 4.5 * (1.5 + max(len(_plain(low)), len(_plain(high)))) if which == "x" else 13  # points
    width, height = map(float, figure.get_size_inches())
    return 3 * size * math.log10(high / low) < 72 * 0.75 * (width if which == "x" else height)


def _plain(value: float, position: int | None = None) -> str:
    del position
    return (
        f"{value:,.6f}".rstrip("0").rstrip(".").replace("-", "−")
        if value < 1
        else f"{value:,.3g}"
        if value < 10
        else f"{value:,.0f}"
    )


def save_png(draw: Callable[[], Figure], path: Path) -> Path:
    """Write a figure on white, 2 pixels to a point."""
    with _styled():
        draw().savefig(path, dpi=144, facecolor="white", bbox_inches="tight", metadata={"Software": None})
    return path


def svg(draw: Callable[[], Figure], name: str, alt: str, kind: str) -> str:
    """A figure as an SVG element to stand in a page: text as text, colours by the page's variables, ids that begin with a name.

    Args:
        draw: gives the figure.
        name: of the chart, unlike that of any other in the page.
        alt: what it says, for those who do not see it.
        kind: the element's class.
    """
    file = io.StringIO()
    with _styled():
        figure = draw()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index(">", text.index("<svg")) + 1 :], flags=re.DOTALL)
    body = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-{kind}-", body)
    body = re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", body)
    width, height = (72 * inches for inches in figure.get_size_inches())
    box = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}pt" height="{height:g}pt"'
    return f'<svg class="{kind}" role="img" aria-label="{html.escape(alt)}" {box}>{body}'
