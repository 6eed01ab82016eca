"""Turn results into a report: one HTML page, and Markdown for a pull request."""
