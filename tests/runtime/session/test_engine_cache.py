"""The compiled engines of TensorRT belong to the weights of one graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.artifact.reader import read_manifest
from runtime.errors import IntegrityError, UsageError
from runtime.session import session
from runtime.session.engine_cache import engine_cache
from runtime.session.open_graph import open_graph, options_for_graph
from runtime.session.provider_options import CpuOptions, TensorRtOptions
from runtime.session.providers import PROVIDERS
from runtime.session.variant_selection import GraphChoice
from tests.runtime.toy_artifact import write_artifact


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    graph, weights = tmp_path / "image.onnx", tmp_path / "image.onnx.data"
    graph.write_bytes(b"the names of the graph")
    weights.write_bytes(b"weights")
    return graph, weights


def find_folder(*files: Path, options: TensorRtOptions | None = None) -> Path:
    return Path(engine_cache(options or TensorRtOptions(), files)["trt_engine_cache_path"])


def test_other_weights_have_engines_of_their_own(files: tuple[Path, Path], cache: Path) -> None:
    graph, weights = files
    first = find_folder(graph, weights)
    assert first.parent == cache / "tensorrt"
    assert first.is_dir()
    weights.write_bytes(b"WEIGHTS")
    retrained = find_folder(graph, weights)
    graph.write_bytes(b"another graph")
    assert len({first, retrained, find_folder(graph, weights), find_folder(graph)}) == 4
    weights.write_bytes(b"weights")
    graph.write_bytes(b"the names of the graph")
    assert find_folder(graph, weights) == first


def test_without_tf32_engines_are_others(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_folder(*files)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert find_folder(*files) != first


def test_a_named_folder_keeps_the_engines_or_is_refused(files: tuple[Path, Path], tmp_path: Path, cache: Path) -> None:
    named = TensorRtOptions(cache_folder=str(tmp_path / "mine"))
    assert find_folder(*files, options=named).parent == tmp_path / "mine"
    cache.write_text("a file instead of a folder")
    assert engine_cache(TensorRtOptions(), files) == {}
    with pytest.raises(UsageError, match=r"the cache folder .*/cache/x cannot be written"):
        engine_cache(TensorRtOptions(cache_folder=str(cache / "x")), files)


def test_weights_that_cannot_be_read_are_refused(files: tuple[Path, Path]) -> None:
    files[1].unlink()
    with pytest.raises(IntegrityError, match=r"image\.onnx\.data cannot be read .*; export the artifact again"):
        find_folder(*files)


def test_a_session_names_the_folder_of_its_graph(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy")
    tower = read_manifest(folder).towers["text"]
    choice, graph = GraphChoice(name="fp32", graph=tower.graph, reason="as requested"), folder / tower.graph
    options = options_for_graph(runtime.TensorRtOptions(), tower, choice, (graph,))
    assert options["trt_engine_cache_path"] == str(find_folder(graph))
    assert "trt_profile_max_shapes" in options


def test_a_session_counts_the_weights_outside_of_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, passed = write_artifact(tmp_path / "toy"), dict[str, str]()

    def open_on_cpu(path: Path, provider: Any, settings: Any, threads: int, further: dict[str, str]) -> Any:
        passed.update(further)
        return open_graph(path, PROVIDERS["cpu"], CpuOptions(), threads)

    monkeypatch.setattr(session, "open_graph", open_on_cpu)
    monkeypatch.setattr(session, "check_external_data", lambda *_: None)
    tower, weights = read_manifest(folder).towers["text"], folder / "text.onnx.data"
    weights.write_bytes(b"weights")
    session.Session(folder, replace(tower, external_data=weights.name), session.SessionOptions(provider="tensorrt"))
    assert passed["trt_engine_cache_path"] == str(find_folder(folder / tower.graph, weights))
