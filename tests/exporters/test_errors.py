"""Test the errors that hold more than their message."""

from __future__ import annotations

import copy

import pytest

from exporters.errors import ExportError, FloorError, WorseModelError


@pytest.mark.parametrize(
    "error", [FloorError("too far", 0.5), WorseModelError("worse", {"recall": 0.5}, {"recall": 0.25})]
)
def test_errors_with_measurements_can_be_pickled(error: ExportError) -> None:
    copied = copy.copy(error)  # copy uses the protocol of pickle
    assert (str(copied), vars(copied)) == (str(error), vars(error))
