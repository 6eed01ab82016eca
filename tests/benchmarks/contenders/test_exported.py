"""A library's own export is made once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.contenders.exported import export_once
from benchmarks.contenders.peer import PeerError


def _command(code: str) -> Callable[[Path], list[str]]:
    return lambda folder: [sys.executable, "-c", code, str(folder)]


@pytest.mark.process
def test_an_export_happens_once(tmp_path: Path) -> None:
    make = _command("import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir()")
    folder = export_once("someone", "a model", tmp_path, make)
    assert export_once("someone", "a model", tmp_path, _command("raise SystemExit(3)")) == folder
    assert export_once("someone", "another", tmp_path, make) != folder
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.process
def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir(); sys.exit('first\\nthe reason')"
    with pytest.raises(PeerError, match=r"someone cannot export a model \(exit code 1: the reason\)"):
        export_once("someone", "a model", tmp_path, _command(code))
    with pytest.raises(PeerError, match="did not export"):
        export_once("someone", "a model", tmp_path, _command("import time; time.sleep(60)"), timeout_s=0.1)
    assert not list(tmp_path.iterdir())
