"""The report of a study: a page, a Markdown text, and the charts of both."""

from ddimkit.tradeoff.report.charts import draw_charts
from ddimkit.tradeoff.report.samples import save_grid
from ddimkit.tradeoff.report.write import write_markdown, write_page

__all__ = ["draw_charts", "save_grid", "write_markdown", "write_page"]
