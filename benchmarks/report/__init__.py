"""From results to a report that someone can choose a machine by: one HTML page, and Markdown for a pull request."""

from benchmarks.report.html import render_html
from benchmarks.report.markdown import render_markdown
from benchmarks.report.write import Format, write_report

__all__ = ["Format", "render_html", "render_markdown", "write_report"]
