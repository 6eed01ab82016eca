"""Turn results into a report: one HTML page, and Markdown for a pull request."""

from benchmarks.report.write import Format, write_report

__all__ = ["Format", "write_report"]
