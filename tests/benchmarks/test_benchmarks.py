"""The benchmarks run, compare what they say they compare, and refuse what they cannot. Nothing here is timed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import runtime
from benchmarks import footprint, graphs, memory, throughput
from exporters.docstrings import load_texts


def test_texts_are_real_and_of_mixed_length() -> None:
    texts = load_texts(300)
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) > 250
    assert min(lengths) < 5
    assert max(lengths) > 100
    assert load_texts(300) == texts


def test_images_from_files_are_held_against_the_graph_alone(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main([str(exported), "--items", "9", "--rounds", "1"]) == 0
    header, _, graph, ours = capsys.readouterr().out.splitlines()
    assert header.startswith("contestant")
    assert graph.startswith("the graph alone, cpu")
    assert "1.00 (1.00 to 1.00)" in graph
    assert ours.startswith("runtime, cpu")
    assert " 1 " in ours or "1 - " in ours, "its vectors are those of the graph alone"


def test_a_contestant_answers_every_round_and_leaves_its_vectors(exported_text: Path, tmp_path: Path) -> None:
    items, vectors = tmp_path / "items.json", tmp_path / "v.npy"
    items.write_text(json.dumps(["a text", "another"]))
    words = ["runtime", str(exported_text), str(items), "cpu", "auto", str(vectors)]
    command = [sys.executable, "-m", "benchmarks.contestant", *words]
    run = subprocess.run(command, input="\n\n", capture_output=True, text=True, check=True)
    loaded, *rounds = map(json.loads, run.stdout.splitlines())
    assert loaded["load_s"] > 0
    assert [set(answer) for answer in rounds] == [{"seconds", "peak_mb"}] * 2
    np.testing.assert_array_equal(np.load(vectors), runtime.load(exported_text).embed(["a text", "another"]))


def test_a_contestant_that_fails_ends_the_benchmark(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(exported_text), "--items", "2", "--rounds", "1", "--openvino-python", "/bin/false"]
    assert throughput.main(arguments) == 1
    assert "runtime, openvino has ended early" in capsys.readouterr().err


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


def test_variants_and_torch_run_the_same_batch(exported_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert graphs.main([str(exported_text), "--batch", "3", "--tokens", "9", "--rounds", "1"]) == 0
    *_, ours = capsys.readouterr().out.splitlines()
    assert ours.startswith("fp32, cpu")
    assert graphs.main([str(exported_text), "--batch", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err
