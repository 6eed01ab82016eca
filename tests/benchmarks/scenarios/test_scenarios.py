"""Installation, start and memory are measured. Nothing here is timed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from benchmarks.scenarios import footprint, memory_growth
from benchmarks.scenarios.footprint import installed_bytes, size_bytes, with_requirements


def test_memory_is_printed_ten_times(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory_growth.main([str(exported_text), "--batches", "20", "--longest", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["loaded", *map(str, range(2, 21, 2))]
    assert all(float(row[1]) > 0 for row in rows)


def test_an_installation_includes_its_requirements_only() -> None:
    ours = with_requirements("embedding-backbones[cpu]")
    assert {"numpy", "onnxruntime", "pillow", "tokenizers"} <= ours.keys()
    assert "torch" not in ours
    assert "torch" in with_requirements("sentence-transformers")
    numpy = importlib.metadata.distribution("numpy")
    assert installed_bytes("numpy") == size_bytes(numpy) > 10_000_000


@pytest.mark.process
def test_the_footprint_of_a_start_is_measured(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint.main([str(exported_text), "--rounds", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("embedding-backbones[cpu]")


@pytest.mark.process
def test_a_model_that_cannot_be_started_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint.main([str(tmp_path / "none"), "--rounds", "1"]) == 1
    assert "cannot start" in capsys.readouterr().err
