"""Installation, start and memory are measured, and what cannot be is refused. Nothing here is timed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from benchmarks.scenarios import footprint
from benchmarks.scenarios import memory_growth as memory
from exporters.samples.docstrings import load_texts


def test_texts_are_real_and_of_mixed_length() -> None:
    texts = load_texts(300)
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) > 250
    assert min(lengths) < 5
    assert max(lengths) > 100
    assert load_texts(300) == texts


def test_memory_is_told_ten_times(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main([str(exported_text), "--batches", "20", "--longest", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["loaded", *map(str, range(2, 21, 2))]
    assert all(float(row[1]) > 0 for row in rows)


def test_an_installation_weighs_what_it_needs_and_not_what_else_is_there() -> None:
    ours = footprint._closure("embedding-backbones[cpu]")
    assert {"numpy", "onnxruntime", "pillow", "tokenizers"} <= ours.keys()
    assert "torch" not in ours
    assert "torch" in footprint._closure("sentence-transformers")
    numpy = importlib.metadata.distribution("numpy")
    assert footprint._weigh(["numpy"]) == footprint._size(numpy) > 10_000_000


def test_the_footprint_of_a_start_is_measured(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint.main([str(exported_text), "--rounds", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("embedding-backbones[cpu]")


def test_a_model_that_cannot_be_started_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footprint.main([str(tmp_path / "none"), "--rounds", "1"]) == 1
    assert "cannot be started" in capsys.readouterr().err
