from __future__ import annotations

from exporters.weights.parsing import summarize_error


def test_the_first_line_of_an_error_may_be_empty() -> None:
    assert summarize_error(ImportError("\nIt needs a library.\nInstall it.\n")) == "It needs a library."
