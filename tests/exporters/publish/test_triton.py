from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporters.publish.publish import publish
from tests.exporters.publish.toys import write_clip_artifact, write_mesh_artifact, write_text_artifact


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's own schema of ``config.pbtxt``. ``tritonclient.grpc`` itself would import grpc."""
    package = pytest.importorskip("tritonclient", reason="needs tritonclient, which is for Linux")
    spec = importlib.util.spec_from_file_location("schema", Path(package.__path__[0], "grpc/model_config_pb2.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("write", [write_text_artifact, write_clip_artifact, write_mesh_artifact])
def test_configurations_follow_the_schema_of_triton(write: Any, schema: Any, tmp_path: Path) -> None:
    text_format = pytest.importorskip("google.protobuf.text_format")
    (folder,) = publish(write(tmp_path / "toy"), ["triton"], tmp_path / "out")
    paths = sorted(folder.glob("*/config.pbtxt"))
    configs = {path.parent.name: text_format.Parse(path.read_text(), schema.ModelConfig()) for path in paths}
    assert all(config.name == name for name, config in configs.items())
    assert all(config.HasField("dynamic_batching") or config.platform == "ensemble" for config in configs.values())
    for config in configs.values():
        for step in config.ensemble_scheduling.step:
            inner = configs[step.model_name]
            assert set(step.input_map) == {each.name for each in inner.input}
            assert set(step.output_map) == {each.name for each in inner.output}


def test_requests_are_tokenized_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (folder,) = publish(write_text_artifact(tmp_path / "toy"), ["triton"], tmp_path / "out")
    assert sorted(path.name for path in (folder / "toy-tokenizer/1").iterdir()) == [
        *("model.py", "settings.json", "tokenizer.json")
    ]
    backend: Any = ModuleType("triton_python_backend_utils")
    backend.get_input_tensor_by_name = lambda request, name: SimpleNamespace(as_numpy=lambda: request[name])
    backend.Tensor = lambda name, array: (name, array)
    backend.InferenceResponse = lambda output_tensors: dict(output_tensors)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    spec = importlib.util.spec_from_file_location("model", folder / "toy-tokenizer/1/model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(folder / "toy-tokenizer"), "model_version": "1"})
    texts = [np.array([[b"a b c d"], [b"a"]], object), np.array([[b"c"]], object)]
    first, second = model.execute([{"text": each} for each in texts])
    assert first["input_ids"].shape == (2, 6)
    assert second["input_ids"].tolist() == [[2, 6, 3, 0, 0, 0]]
    assert second["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]
