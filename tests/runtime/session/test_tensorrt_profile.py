"""TensorRT gets the range of shapes and its libraries."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.artifact.manifest import TextPreprocessing
from runtime.artifact.reader import read_manifest
from runtime.inference.tower import LoadedTower
from runtime.preprocess.item import UnusableItemError
from runtime.session import session
from runtime.session.open_graph import _with_fallbacks, open_graph
from runtime.session.provider_options import CpuOptions, TensorRtOptions
from runtime.session.providers import PROVIDERS, preload_tensorrt_libraries
from runtime.session.session import SessionOptions
from runtime.session.tensorrt_profile import profile_shapes
from tests.runtime.toy_artifact import write_artifact


@pytest.mark.parametrize(
    ("padding", "lengths"), [("longest", (32, 128, 300)), ("max_length", (300, 300, 300))], ids=["longest", "always"]
)
def test_texts_have_all_lengths_that_they_are_padded_to(padding: Any, lengths: tuple[int, ...], tmp_path: Path) -> None:
    tower = read_manifest(write_artifact(tmp_path / "toy", max_length=300, padding=padding)).towers["text"]
    assert isinstance(tower.preprocessing, TextPreprocessing)
    tower = replace(tower, inputs=tower.inputs[:2])
    for name, batch, length in zip(("min", "opt", "max"), (1, 64, 64), lengths, strict=True):
        shapes = f"input_ids:{batch}x{length},attention_mask:{batch}x{length}"
        assert profile_shapes(tower)[f"trt_profile_{name}_shapes"] == shapes


def test_images_have_all_sizes_of_batches(tmp_path: Path) -> None:
    tower = read_manifest(write_artifact(tmp_path / "toy", image=True)).towers["image"]
    assert [*profile_shapes(tower).values()] == ["pixels:1x4x4x3", "pixels:64x4x4x3", "pixels:64x4x4x3"]


@pytest.mark.parametrize("profile", [True, False])
def test_a_session_is_opened_with_the_range(profile: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict[str, dict[str, str]]()

    def open_on_cpu(path: Path, provider: Any, settings: Any, threads: int, shapes: Any) -> Any:
        given.update(_with_fallbacks(provider, settings, threads, shapes))
        return open_graph(path, PROVIDERS["cpu"], CpuOptions(), threads)

    monkeypatch.setattr(session, "open_graph", open_on_cpu)
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    folder = write_artifact(tmp_path / "toy")
    options = SessionOptions(provider_options=TensorRtOptions(profile=profile, device_id=1))
    tower = LoadedTower(folder, read_manifest(folder).towers["text"], options)
    assert [*given] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert {each["device_id"] for each in given.values()} == {"1"}
    assert ("trt_profile_max_shapes" in given["TensorrtExecutionProvider"]) is profile
    rows = [row for row in tower.prepare(["a b"] * 150) if not isinstance(row, UnusableItemError)]
    for batch_size in (None, 100):
        assert [len(batch) for batch in tower.plan_batches(rows, batch_size)] == [64, 64, 16, 4, 2]


def test_the_libraries_of_nvidias_wheel_are_loaded_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = tmp_path / "tensorrt_libs", list[str]()
    folder.mkdir()
    for name in ("__init__.py", "libnvonnxparser.so.10", "libnvinfer_plugin.so.10", "libnvinfer.so.10", "other.so.1"):
        (folder / name).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append(Path(path).name))
    preload_tensorrt_libraries()
    assert loaded == ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    preload_tensorrt_libraries()
