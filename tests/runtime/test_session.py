"""What ONNX Runtime makes of a graph when a session opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

import runtime


def test_on_the_cpu_no_addition_goes_into_a_normalisation(
    exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's operator for both takes three times as long there."""
    real, made = onnxruntime.InferenceSession, tmp_path / "made.onnx"

    def open_and_keep(path: str, options: Any, **others: Any) -> onnxruntime.InferenceSession:
        options.optimized_model_filepath = str(made)
        return real(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_and_keep)
    runtime.load(exported_text, provider="cpu", variant="fp32")
    operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    assert "LayerNormalization" in operators
    assert "SkipLayerNormalization" not in operators
    real(str(exported_text / "text.onnx"), _keeping(made), providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    assert "SkipLayerNormalization" in operators, "it would be there otherwise"


def _keeping(path: Path) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    return options
