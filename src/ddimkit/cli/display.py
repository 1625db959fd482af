"""What commands show: progress on standard error, tables on standard output."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ddimkit.tradeoff.compare import Comparison
from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

__all__ = ["INTERRUPTED", "progress_bar", "show_comparison", "show_results"]

INTERRUPTED = 130
"""The exit code of a program stopped by Ctrl-C, as shells have it."""


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


def show_results(curve: TradeoffCurve, report: Path) -> None:
    """A table of a sweep's results, its findings, and where its report is."""
    table = Table(title=f"{curve.model['name']}, {len(curve.baseline.seeds)} samples a run")
    judged = any(c.quality is not None for c in curve.configurations)
    last = "distance" if judged else "ms a sample"  # a terminal of 80 columns has not room for both
    for head in ("configuration", "calls", "seconds", "speed-up", "overhead", last):
        table.add_column(head, justify="left" if head == "configuration" else "right", no_wrap=True)
    for c in curve.configurations:
        overhead = f"{c.sampler_overhead_seconds / c.total_seconds:.2%}"
        gain = "baseline" if c.baseline else f"{c.speedup:.1f}×"
        cells = (c.label, str(c.nfe), f"{c.total_seconds:.3g}", gain, overhead)
        table.add_row(*cells, _distance(c) if judged else f"{1e3 * c.per_sample_seconds:.1f}")
    console = Console()
    console.print(table)
    for sentence in findings(curve):
        console.print(f"- {sentence}", highlight=False)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _distance(c: ConfigurationResult) -> str:
    """The kernel distance and half the width of its interval."""
    if c.quality is None:
        return "–"
    low, high = c.quality.kernel.interval()
    return f"{c.quality.kernel.value:.2g} ±{(high - low) / 2:.1g}"


def show_comparison(found: Comparison, a: Path, b: Path) -> None:
    """A table of two sweeps side by side, with what differs between them and the verdict."""
    heads = ("configuration", "seconds A", "seconds B", "A/B", "speed-up A", "speed-up B", "B/A")
    table = Table(*heads, title=f"A: {a}, B: {b}")
    for row in found.rows():
        table.add_row(*row)
    console = Console()
    console.print(table)
    for difference in found.differences:
        console.print(f"- differs in {difference}", highlight=False)
    console.print(found.finding, highlight=False)
