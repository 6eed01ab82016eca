"""The site is built without a warning, and a broken link is one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(find_spec("zensical") is None, reason="zensical is not installed"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what the site is built from."""
    for name in ("docs", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("runtime", "exporters"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_site_has_no_warning(copy: Path) -> None:
    done = build(copy)
    assert done.returncode == 0, done.stderr
    page = (copy / "site/reference/api/runtime/index.html").read_text("utf-8")
    assert 'id="runtime.load"' in page
    assert ":class:`" not in page
    assert ":func:`" not in page


@pytest.mark.parametrize("link", ["[page](nowhere.md)", "[heading](export.md#nowhere)"])
def test_a_broken_link_fails(copy: Path, link: str) -> None:
    with (copy / "docs/jobs.md").open("a", encoding="utf-8") as file:
        file.write(f"\n{link}\n")
    assert build(copy).returncode != 0
