"""Options that are wrong for every model are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.weights_ref import ModelFolder
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length 0 is below 3"),
        ({"max_length": -5}, "max_length -5 is below 3"),
        ({"tower": "images"}, "'images' is neither text nor image"),
        ({"tower": "mesh"}, "'mesh' is neither text nor image"),
        ({"input": "float16"}, "neither uint8 nor float32"),
        ({"opset": 17}, "opset 17 is not one of 18 to 23"),
    ],
)
def test_a_wrong_value_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)


def test_weights_may_be_a_path(tmp_path: Path) -> None:
    assert ExportOptions(weights=tmp_path).weights_ref == ModelFolder(tmp_path)
