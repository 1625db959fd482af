"""What a sweep writes: results, charts and the report."""

from pathlib import Path

from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.report import draw_charts, write_markdown, write_page
from ddimkit.tradeoff.study import Study

__all__ = ["write_results"]


def write_results(study: Study, folder: Path) -> Path:
    """Write ``results.json``, charts, ``report.md`` and ``report.html`` into a folder; returns the page."""
    study.save(folder / "results.json")
    draw_charts(study, folder)
    said = findings(study)
    write_markdown(study, folder, said)
    return write_page(study, folder, said)
