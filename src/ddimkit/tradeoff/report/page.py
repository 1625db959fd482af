"""``report.html``: one self-contained page; jinja2 is imported when one is written."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ddimkit.tradeoff.report.charts import charts_of
from ddimkit.tradeoff.report.content import answer_of, measured, missing, record, title_of
from ddimkit.tradeoff.report.samples import data_uri, drawable
from ddimkit.tradeoff.report.style import palette, svg
from ddimkit.tradeoff.report.tables import MISSING, shown_columns
from ddimkit.tradeoff.study import Study

__all__ = ["write_page"]

_TEMPLATE = Path(__file__).with_name("page.html")


def write_page(study: Study, folder: str | Path, findings: Sequence[str]) -> Path:
    """Write ``report.html``, which needs nothing outside itself.

    Args:
        study: whose report.
        folder: where to.
        findings: sentences computed from the study, the most useful first.

    Returns:
        the file.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        _TEMPLATE.read_text(encoding="utf-8")
    )
    columns = shown_columns(study)
    rows = [[(column.text(row, study) or MISSING, column.key(row, study)) for column in columns] for row in study.rows]
    charts = {
        chart.name: {
            "title": chart.title,
            "caption": chart.caption,
            "svg": [
                svg(partial(chart.draw, narrow), chart.name, chart.alt, ("wide", "narrow")[narrow]) for narrow in (False, True)
            ],
        }
        for chart in charts_of(study)
    }
    samples = [{"label": label, "picture": data_uri(part), "count": len(part)} for label, part in drawable(study).items()]
    path = Path(folder) / "report.html"
    page = template.render(
        title=title_of(study), said=answer_of(study), missing=missing(study), measured=measured(study), record=record(study),
        heads=[column.head for column in columns], rows=rows, charts=charts, samples=samples,
        baseline=study.baseline, findings=findings, palette=palette(),
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")
    return path
