"""A cache folder, two threads and faked speeds for all tests of this folder."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
from onnx import numpy_helper

from runtime.artifact.reader import record_file
from runtime.loading.tuning_store import TuneSetting
from runtime.tune.measure import measure
from runtime.tune.worker import open_model
from tests.runtime.session.variant_samples import make_variant
from tests.runtime.tune.samples import Speed


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuned"


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("runtime.loading.tuning_store", "runtime.tune.measure"):
        monkeypatch.setattr(f"{module}.available_threads", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speed], None]:
    """Replace candidates by ones without a process and with faked speed; their vectors stay real."""

    def pace(seconds: Speed) -> None:
        class Paced:
            def __init__(self, folder: Path, tower: Any, setting: TuneSetting) -> None:
                self._folder, self._tower, self._setting = folder, tower, setting

            def load(self) -> tuple[float, float]:
                _, found = open_model(self._folder, self._tower, self._setting)
                return found.agreement.min_cosine, found.tolerance.min_cosine

            def take_turn(self, batch_size: int) -> list[float]:
                return [seconds(self._setting, batch_size)] * 4

            def close(self) -> None:
                pass

        monkeypatch.setitem(cast("dict[str, Any]", measure.__kwdefaults__), "start", Paced)

    return pace


@pytest.fixture
def varied(artifact: Path, edit_manifest: Callable[[Callable[[dict[str, Any]], None]], Path]) -> Path:
    """An artifact with a correct variant, ``optimized``, and a wrong one, ``int8``."""
    shutil.copy(artifact / "image.onnx", artifact / "image.optimized.onnx")
    graph = onnx.load(artifact / "image.onnx")
    largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest)[::-1].copy(), largest.name))
    onnx.save(graph, artifact / "image.int8.onnx")

    def add(document: dict[str, Any]) -> None:
        for name in ("optimized", "int8"):
            variant = make_variant(name, "cpu")
            document["towers"]["image"]["variants"][name] = dataclasses.asdict(variant)
            document["files"][variant.graph] = dataclasses.asdict(record_file(artifact / variant.graph))

    return edit_manifest(add)
