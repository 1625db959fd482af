"""``report.md``: the page's contents in its order, shorter, with the charts' files beside it."""

from collections.abc import Sequence
from pathlib import Path

from ddimkit.tradeoff.report.charts import charts_of
from ddimkit.tradeoff.report.content import answer_of, measured, missing, record, title_of
from ddimkit.tradeoff.report.samples import drawable
from ddimkit.tradeoff.report.style import Chart
from ddimkit.tradeoff.report.tables import cells, columns
from ddimkit.tradeoff.study import Study

__all__ = ["write_markdown"]


def write_markdown(study: Study, folder: str | Path, findings: Sequence[str]) -> Path:
    """Write ``report.md``, for the pictures that :func:`~ddimkit.tradeoff.report.charts.draw_charts` writes beside it.

    Args:
        study: whose report.
        folder: where to.
        findings: sentences computed from the study, the most useful first.

    Returns:
        the file.
    """
    said, charts = answer_of(study), {chart.name: chart for chart in charts_of(study)}
    lines = [f"# {_plain(said.headline)}", "", _plain(f"{title_of(study)}."), ""]
    lines += [f"- {_plain(f'{name}: {text}')}" for name, text in said.facts] + [f"- {_plain(reason)}" for reason in said.reasons]
    lines += [line for text in (said.code and f"`{said.code}`", _plain(said.scale), missing(study)) if text for line in ("", text)]
    lines += [line for name, rows in said.presets for line in ("", f"{name}:", "", *_table(said.heads, rows))] + [""]
    lines += _part("Quality", _pictures(charts, "quality-time", "quality-calls"))
    lines += _part("All configurations", [*_table(columns(study), [cells(row, study) for row in study.rows]), ""])
    lines += _part("Time", _pictures(charts, "time", "speedup"))
    if drawable(study):
        lines += _part("Samples", ["![A row for each configuration, a column for each seed](samples.png)", ""])
    lines += _part("Eta", _pictures(charts, "eta"))
    lines += _part("Findings", [*(f"- {_plain(sentence)}" for sentence in findings), ""] if findings else [])
    lines += _part("How it was measured", [line for text in measured(study) for line in (_plain(text), "")])
    lines += _part("What reproduces it", ["```json", record(study), "```", ""])
    path = Path(folder) / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _part(title: str, lines: list[str]) -> list[str]:
    """A part with its title; nothing where it is empty."""
    return [f"## {title}", "", *lines] if lines else []


def _pictures(charts: dict[str, Chart], *names: str) -> list[str]:
    shown = [charts[name] for name in names if name in charts]
    return [line for chart in shown for line in (f"![{_plain(chart.alt)}]({chart.name}.png)", "", _plain(chart.caption), "")]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [" | ".join(("", *map(_plain, row), "")).strip() for row in (heads, ["---"] * len(heads), *rows)]


def _plain(text: str) -> str:
    """A text in which nothing is markup, and which ends no cell."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)
    return " ".join(escaped.split())
