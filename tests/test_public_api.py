"""The public API: its names and signatures are those that tests/public_api.txt records."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.public_api import MODULES, describe

RECORDED = Path(__file__).with_name("public_api.txt")


def test_names_and_signatures_are_the_recorded_ones() -> None:
    lines = [line for module in MODULES for line in describe(module)]
    assert lines == RECORDED.read_text().splitlines(), "see tests/public_api.py for what to do"


@pytest.mark.parametrize("package", ["runtime", "exporters"])
def test_every_error_is_public(package: str) -> None:
    errors = vars(importlib.import_module(f"{package}.errors"))
    own = {name for name, thing in errors.items() if getattr(thing, "__module__", "") == f"{package}.errors"}
    raised = {name for name in own if isinstance(errors[name], type)}
    assert raised <= {*importlib.import_module(package).__all__}


@pytest.mark.parametrize("module", MODULES)
def test_every_name_in_all_is_there_and_documented(module: str) -> None:
    package = importlib.import_module(module)
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names)
    assert list(names) == sorted(names)
    for name in names:
        thing = getattr(package, name)
        assert not callable(thing) or thing.__doc__
