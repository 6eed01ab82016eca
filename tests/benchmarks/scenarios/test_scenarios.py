"""Installation, start and memory are measured. Nothing here is timed."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import runtime
from benchmarks.scenarios import footprint, memory_growth
from benchmarks.scenarios.footprint import (
    Installation,
    installed_bytes,
    measure_start,
    size_bytes,
    with_requirements,
)
from runtime import console
from runtime.errors import EmbeddingBackbonesError
from tests.benchmarks.exit_codes import run_command


@pytest.mark.parametrize("batches", [19, 25])
def test_memory_is_printed_ten_times(
    batches: int, exported_text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: set[int] = set()
    embed = runtime.Embedder.embed

    def recorded(model: runtime.Embedder, texts: Sequence[str], *, tower: Any) -> Any:
        lengths.update(len(text.split()) for text in texts)
        return embed(model, texts, tower=tower)

    monkeypatch.setattr(runtime.Embedder, "embed", recorded)
    assert run_command("memory", str(exported_text), "--batches", str(batches), "--longest", "4") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 11
    assert (rows[0][0], rows[-1][0]) == ("loaded", str(batches))
    assert all(float(row[1]) > 0 for row in rows)
    assert lengths == {1, 2, 3, 4}


def test_a_memory_that_is_unknown_is_not_0(
    exported_text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_growth, "resident_bytes", lambda _: None)
    assert run_command("memory", str(exported_text)) == console.FAILURE
    assert "does not tell the memory" in capsys.readouterr().err


def write_distribution(folder: Path, name: str, *requirements: str, record: bool = True) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requirements)]
    (info / "METADATA").write_text("\n".join([*lines, "", ""]))
    (folder / f"{name}.py").write_text("x" * 100)
    if record:
        (info / "RECORD").write_text(f"{name}.py,,\n")


def test_a_missing_requirement_makes_the_size_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere, extra = "absent-other; sys_platform == 'none'", "absent-extra; extra == 'more'"
    write_distribution(tmp_path, "toyone", "toytwo[fast]", elsewhere, extra)
    with pytest.raises(EmbeddingBackbonesError, match=r"toytwo is not installed; run pip install 'toyone'"):
        installed_bytes("toyone")
    write_distribution(tmp_path, "toytwo", "toyfive; extra == 'fast'")
    write_distribution(tmp_path, "toyfive")
    assert installed_bytes("toyone") == 300
    with pytest.raises(
        EmbeddingBackbonesError, match=r"absent-extra is not installed; run pip install 'toyone\[more\]'"
    ):
        installed_bytes("toyone[more]")


def test_a_distribution_without_a_list_of_files_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write_distribution(tmp_path, "toythree", record=False)
    with pytest.raises(EmbeddingBackbonesError, match="toythree has no list of its files"):
        installed_bytes("toythree")


def test_an_editable_distribution_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write_distribution(tmp_path, "toyfour")
    (tmp_path / "toyfour-1.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    installed_bytes("toyfour")
    assert "toyfour is editable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["footprint", "artifact", "--rounds", "0"], "from 1 up"),
        (["footprint", "artifact", "--sentence-transformers", "nowhere"], "nowhere is not a folder"),
        (["memory", "artifact", "--batches", "9"], "from 10 up"),
    ],
)
def test_wrong_options_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*words) == console.WRONG_USAGE
    assert message in capsys.readouterr().err


def test_an_installation_includes_its_requirements_only() -> None:
    ours = with_requirements("embedding-backbones[cpu]")
    assert {"numpy", "onnxruntime", "pillow", "tokenizers"} <= ours.keys()
    assert "torch" not in ours
    assert "torch" in with_requirements("sentence-transformers")
    numpy = importlib.metadata.distribution("numpy")
    assert installed_bytes("numpy") == size_bytes(numpy) > 10_000_000


@pytest.mark.process
def test_the_footprint_of_a_start_is_measured(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("footprint", str(exported_text), "--rounds", "1") == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert re.match(r"embedding-backbones\[cpu\] +\d+( +([\d.]+) \(\2 to \2\)){3}$", row)


def test_the_figures_of_a_start_are_medians(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = iter([[1.0, 0.1, 50.0], [2.0, 0.2, 60.0], [9.0, 0.9, 900.0]])
    monkeypatch.setattr(footprint, "measure_start", lambda _: next(starts))
    assert run_command("footprint", "artifact", "--rounds", "3") == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert re.search(r" 2.00 \(1.00 to 9.00\) +0.20 \(0.10 to 0.90\) +60 \(50 to 900\)$", row)


@pytest.mark.process
def test_a_start_is_timed_without_packages_of_the_measurement() -> None:
    toy = Installation("toy", "import sys", "1 / ('psutil' not in sys.modules)")
    imported, loaded, resident = measure_start(toy)
    assert min(imported, loaded) >= 0
    assert resident > 1


def test_a_missing_package_of_the_measurement_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, footprint.__name__)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert run_command("footprint", "artifact") == console.FAILURE
    error = capsys.readouterr().err
    assert "needs psutil; install it with `pip install 'embedding-backbones[bench" in error


@pytest.mark.process
def test_a_model_that_cannot_be_started_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("footprint", str(tmp_path / "none"), "--rounds", "1") == 1
    assert "cannot start embedding-backbones[cpu]: it ended with exit code 1" in capsys.readouterr().err
