"""Nodes on the CPU and copies are counted from a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.artifact.graph_operators import read_operators
from runtime.artifact.reader import read_manifest
from runtime.cli.main import main
from runtime.loading.placements import find_placements
from runtime.session.placement import count_placement
from runtime.session.session import Session, SessionOptions
from tests.runtime.toy_artifact import write_artifact


def event(name: str, operator: str, provider: str, kind: str = "_kernel_time") -> dict[str, Any]:
    arguments = {"op_name": operator, "provider": f"{provider}ExecutionProvider"}
    return {"cat": "Node", "name": f"{name}{kind}", "args": arguments}


def test_nodes_on_the_cpu_and_copies_are_counted() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        event("shape", "Shape", "CPU"),
        event("matrix", "MatMul", "CUDA", "_fence_before"),
        event("matrix", "MatMul", "CUDA"),
        event("to", "MemcpyToHost", "CUDA"),
        *[event("step", "ArgMax", "CPU")] * 3,  # in a loop
        event("other", "ArgMax", "CPU"),
        event("from", "MemcpyFromHost", "CUDA"),
    ]
    placement = count_placement(events, "cuda")
    assert (placement.nodes, placement.on_cpu, placement.copies) == (4, {"Shape": 1, "ArgMax": 2}, 2)
    assert str(placement) == "1 of 4 nodes on cuda, 2 copies in each batch; on the CPU: 2 ArgMax, 1 Shape"


def test_the_profile_has_the_nodes_of_the_graph(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy", image=True)
    for name, placement in find_placements(folder, provider="cpu").items():
        assert (placement.on_cpu, placement.copies) == ({}, 0)
        assert placement.nodes >= 1
        assert str(placement) == f"{placement.nodes} of {placement.nodes} nodes on cpu, 0 copies in each batch", name


def test_a_traced_run_names_the_operators(exported_text: Path) -> None:
    tower = read_manifest(exported_text).towers["text"]
    session = Session(exported_text, tower, SessionOptions(provider="cpu"))
    events = session.trace({spec.name: np.array([[5, 6, 7]]) for spec in tower.inputs})
    seen = {each["args"]["op_name"] for each in events if each.get("cat") == "Node"}
    assert "MatMul" in seen & read_operators(exported_text / "text.onnx")


def test_info_tells_it_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_artifact(tmp_path / "toy")
    assert main(["info", str(folder)]) == 0
    assert "placement" not in capsys.readouterr().out
    assert main(["info", str(folder), "--placement", "--provider", "cpu"]) == 0
    assert "placement     text: " in capsys.readouterr().out
