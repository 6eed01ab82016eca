"""The site is built without a warning, and has the API."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.process
@pytest.mark.skipif(find_spec("zensical") is None, reason="zensical is not installed")
def test_the_site_has_no_warning(tmp_path: Path) -> None:
    for name in ("docs", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("runtime", "exporters"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/api/runtime/index.html").read_text("utf-8")
    assert 'id="runtime.load"' in page
    assert ":class:`" not in page
    assert ":func:`" not in page
