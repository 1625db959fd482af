"""``report.html``, one self-contained page, and ``report.md``, the same shorter; jinja2 is imported when one is written."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ddimkit.tradeoff.report.charts import charts_of
from ddimkit.tradeoff.report.content import answer_of, measured, missing, record, title_of
from ddimkit.tradeoff.report.samples import data_uri, drawable
from ddimkit.tradeoff.report.style import Chart, palette, svg
from ddimkit.tradeoff.report.tables import cells, columns, eta_table
from ddimkit.tradeoff.study import Study

__all__ = ["write_markdown", "write_page"]


def write_page(study: Study, folder: str | Path, findings: Sequence[str]) -> Path:
    """Write ``report.html``, which needs nothing outside itself.

    Args:
        study: whose report.
        folder: where to.
        findings: sentences computed from the study, the most useful first.

    Returns:
        the file.
    """
    samples = [{"label": label, "picture": data_uri(part), "count": len(part)} for label, part in drawable(study).items()]
    return _write("report.html", study, folder, findings=findings, palette=palette(), samples=samples, svg=_svg)


def write_markdown(study: Study, folder: str | Path, findings: Sequence[str]) -> Path:
    """Write ``report.md``, for the pictures that :func:`~ddimkit.tradeoff.report.charts.draw_charts` writes beside it.

    Args:
        study: whose report.
        folder: where to.
        findings: sentences computed from the study, the most useful first.

    Returns:
        the file.
    """
    return _write("report.md", study, folder, findings=findings, samples=drawable(study), finalize=_unmarked)


def _write(name: str, study: Study, folder: str | Path, *, finalize: Callable[..., object] | None = None, **rest: Any) -> Path:
    """Fill a template; ``finalize`` is applied to every text that it sets."""
    from jinja2 import Environment, StrictUndefined

    layout: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    made = Environment(autoescape=True, undefined=StrictUndefined, finalize=finalize, **layout)
    text = made.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8")).render(
        title=title_of(study),
        said=answer_of(study),
        missing=missing(study),
        charts={chart.name: chart for chart in charts_of(study)},
        heads=columns(study),
        rows=[cells(row, study) for row in study.rows],
        etas=eta_table(study),
        measured=measured(study),
        record=record(study),
        baseline=study.baseline,
        **rest,
    )
    path = Path(folder) / name
    path.write_text(text, encoding="utf-8")
    return path


def _svg(chart: Chart, narrow: bool) -> str:
    return svg(partial(chart.draw, narrow), chart.name, chart.alt, ("wide", "narrow")[narrow])


def _unmarked(text: object) -> object:
    """A text in which nothing is markup, and which ends no cell of a table."""
    from markupsafe import Markup

    if isinstance(text, Markup):
        return text
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in str(text))
    return Markup(" ".join(escaped.split()))  # noqa: S704 (safe in Markdown, and not to be escaped for HTML besides)
