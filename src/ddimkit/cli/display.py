"""What commands show: progress on standard error, answers and tables on standard output."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ddimkit.tradeoff.answer import answer, has_quality
from ddimkit.tradeoff.compare import Comparison
from ddimkit.tradeoff.gap import is_plain_ddim
from ddimkit.tradeoff.presets import presets_of
from ddimkit.tradeoff.recommend import Recommendation, recommend
from ddimkit.tradeoff.report.charts import front
from ddimkit.tradeoff.report.tables import cells, columns
from ddimkit.tradeoff.rows import Row, label_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.wording import plural

__all__ = ["INTERRUPTED", "SCREEN", "Stages", "progress_bar", "show_comparison", "show_presets", "show_study"]

INTERRUPTED = 130
"""The exit code of a program stopped by Ctrl-C, as shells have it."""

SCREEN = 30
"""Lines that a sweep's results take on the terminal, at most."""

_WIDE = 100
_NARROWEST = 60
_COLUMNS = {
    "configuration": ("sampler", "sampler"),
    "calls": ("calls", "calls"),
    "seconds": ("seconds", "seconds"),
    "speed-up": ("speed-up", "speed-up"),
    "gap closed": ("gap closed", "closed"),
    "kernel distance (images)": ("KID (images)", "images"),
}
"""The columns of a study's table that the terminal shows, and their heads on a wide and on a narrow one."""

_AROUND = 6
"""Lines around the rows of the table: blank ones, its head and rule, the rows left out, where the report is."""


def progress_bar(*, passing: bool = False) -> Progress:
    """A bar on standard error, which vanishes when it is done if it is a passing one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=passing, speed_estimate_period=120)


class Stages:
    """Says of a sweep's progress one plain line for each stage, for where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console, self._last = console, ""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Print the stage that begins, if one does."""
        stage = "images, from which the quality is measured" if what.startswith("images of") else what
        if stage != self._last and done < total:
            self._last = stage
            self.console.print(f"Now: {stage}", highlight=False, soft_wrap=True)


def show_study(study: Study, report: Path) -> None:
    """The answer, the rows that matter, and where the report lies: at most 30 lines."""
    console = Console()
    width = max(_NARROWEST, console.width)
    said = [line for sentence in answer(study) for line in textwrap.wrap(sentence, width)]
    chosen = _chosen(study, SCREEN - len(said) - _AROUND)
    heads, lines = _columns(study, chosen, width)
    table = _table(*heads)
    for line in lines:
        table.add_row(*line)
    console.print("\n".join(said), highlight=False, soft_wrap=True)
    console.print(table, width=width)
    left = len(study.rows) - len(chosen)
    if left:
        console.print(f"{plural(left, 'more row')} in the report.", highlight=False)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _chosen(study: Study, room: int) -> list[Row]:
    """The rows that matter most, by rising calls: answer, baseline, presets, DDIM's line, Pareto front, then the others."""
    presets = []
    if has_quality(study):
        found = [recommend(study), *presets_of(study, refinable=False).values()]
        if any(row.refinable for row in study.evaluated):
            found += presets_of(study).values()
        presets = [f.row for f in found if f.row is not None]
    line = [row for row in study.rows if is_plain_ddim(row)]
    ordered = list(
        dict.fromkeys([*presets[:1], study.base, *presets, *line, *front(study.evaluated, lambda row: row.calls), *study.rows])
    )
    return sorted(ordered[: max(1, room)], key=lambda row: (row.calls, row.label))


def _columns(study: Study, rows: Sequence[Row], width: int) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the terminal's columns, shorter where it is narrow; labels are shortened, numbers never."""
    wide, kept = width >= _WIDE, [i for i, head in enumerate(columns(study)) if head in _COLUMNS]
    heads = [_COLUMNS[columns(study)[i]][not wide] for i in kept]
    found = [[cells(row, study)[i].text for i in kept] for row in rows]
    if not wide:
        found = [[_short(head, text) for head, text in zip(heads, line, strict=True)] for line in found]
    others = sum(max(len(line[i]) for line in (heads, *found)) + 2 for i in range(1, len(heads)))
    room = max(len(heads[0]), width - others)
    return heads, [[label if len(label) <= room else f"{label[: room - 1]}…", *rest] for label, *rest in found]


def _short(head: str, text: str) -> str:
    """A cell without what stands in parentheses, the interval; of a distance, only the number of images, which stands there."""
    if head == "sampler":
        return text
    value, _, rest = text.partition(" (")
    return rest.removesuffix(")") or value if head == "images" else value


def _table(*heads: str) -> Table:
    """A table without frame; its first column is text, the others are numbers."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    return table


def show_presets(found: Recommendation, presets: dict[str, Recommendation]) -> None:
    """A recommendation with its reasons, and the presets in a small table."""
    console = Console()
    console.print(str(found), highlight=False, soft_wrap=True)
    table = _table("preset", "calls", "gap closed", "known", "sampler")
    for name, preset in presets.items():
        closed = "–" if preset.closed is None else f"{100 * preset.closed.value:.0f} %"
        label = label_of(preset.sampler) if preset.row is None else preset.row.label
        table.add_row(name, str(preset.calls), closed, "yes" if preset.known else "no", label)
    table.columns[-1].justify = "left"
    console.print(table)


def show_comparison(found: Comparison, a: Path, b: Path) -> None:
    """A table of two studies side by side, with what differs between them and the verdict."""
    console = Console()
    console.print(f"A: {a}\nB: {b}", highlight=False, soft_wrap=True)
    table = _table("sampler", "seconds A", "seconds B", "A/B", "speed-up A", "speed-up B", "B/A")
    for line in comparison_rows(found):
        table.add_row(*line)
    console.print(table)
    for difference in found.differences:
        console.print(f"- differs in {difference}", highlight=False)
    console.print(found.finding, highlight=False)


def comparison_rows(found: Comparison) -> Sequence[tuple[str, ...]]:
    """Label, seconds of both, their ratio, speed-ups of both, their ratio."""
    return [
        (
            pair.label,
            *(f"{times.seconds:.3g}" for times in pair.times),
            f"{pair.times[0].seconds / pair.times[1].seconds:.3g}×",
            *(f"{gain.value:.3g}×" for gain in pair.gains),
            f"{1 + pair.change:.3f}",
        )
        for pair in found.pairs
    ]
