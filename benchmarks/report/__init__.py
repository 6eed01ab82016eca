"""Turn results into a report: one HTML page, and Markdown for a pull request."""

from benchmarks.report.write import Format, make_folder, write_report

__all__ = ["Format", "make_folder", "write_report"]
