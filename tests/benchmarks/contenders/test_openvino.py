"""OpenVINO runs with the settings that were asked for. A fake replaces the library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from benchmarks.contenders import openvino
from benchmarks.contenders.peer import PeerError
from tests.benchmarks.contenders.samples import make_setup


def _fake_openvino(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> list[dict[str, Any]]:
    """Replace OpenVINO by a module that runs onnxruntime, and may change the settings."""
    seen: list[dict[str, Any]] = []

    def compile_model(graph: str, device: str, settings: dict[str, Any]) -> Any:
        seen.append(settings | {"device": device})
        session = onnxruntime.InferenceSession(graph)
        actual = settings | changed
        precision = SimpleNamespace(to_string=lambda: actual["INFERENCE_PRECISION_HINT"])
        model = Model(lambda arrays: {"embedding": session.run(None, arrays)[0]})
        model.properties = actual | {"INFERENCE_PRECISION_HINT": precision}
        return model

    class Model:
        properties: dict[str, Any]

        def __init__(self, run: Callable[[dict[str, Any]], Any]) -> None:
            self.run = run

        def __call__(self, arrays: dict[str, Any]) -> Any:
            return self.run(arrays)

        def get_property(self, name: str) -> Any:
            return self.properties[name]

    module = ModuleType("openvino")
    module.Core = lambda: SimpleNamespace(compile_model=compile_model)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openvino", module)
    return seen


@pytest.mark.parametrize(("variant", "hint"), [("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_gets_threads_and_precision(
    variant: str, hint: str, exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _fake_openvino(monkeypatch)
    peer = openvino.load(make_setup("openvino", exported_text, variant), 3, tmp_path)
    (settings,) = seen
    assert settings == {
        "device": "CPU",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 3,
        "INFERENCE_PRECISION_HINT": hint,
    }
    ids = np.array([[2, 5, 3], [2, 3, 0]])
    vectors = peer.embed_arrays({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    assert vectors.shape == (2, 24)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"INFERENCE_NUM_THREADS": 1}, "1 threads instead of 3"), ({"INFERENCE_PRECISION_HINT": "f16"}, "for f16")],
)
def test_changed_settings_of_openvino_are_an_error(
    changed: dict[str, Any], message: str, exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_openvino(monkeypatch, **changed)
    with pytest.raises(PeerError, match=message):
        openvino.load(make_setup("openvino", exported_text), 3, tmp_path)
