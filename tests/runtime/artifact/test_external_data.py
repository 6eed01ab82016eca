"""Files that a graph names: only the one that the manifest lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

import runtime
from runtime.artifact.external_data import check_external_data, find_external_data


def external(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, dtype=np.float32), name)
    set_external_data(tensor, location, offset=0, length=16)
    tensor.ClearField("raw_data")
    return tensor


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def make_model() -> onnx.ModelProto:
    """A model with external data in every place where a tensor can be."""
    branch = helper.make_graph([], "branch", [], [], initializer=[external("b", "of_subgraph")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=external("v", "of_node")),
        helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Custom", [], ["e"], values=[external("w", "of_list"), external("x", "../outside")]),
    ]
    inside = numpy_helper.from_array(np.ones(3), "inside")
    graph = helper.make_graph(nodes, "g", [], [], initializer=[external("a", "of_graph"), inside])
    sparse = helper.make_sparse_tensor(external("s", "of_sparse"), external("i", "of_indices"), [9])
    graph.sparse_initializer.append(sparse)
    body = [helper.make_node("Constant", [], ["y"], value=external("f", "of_function"))]
    function = helper.make_function("d", "F", [], ["y"], body, [helper.make_opsetid("", 18)])
    return helper.make_model(graph, functions=[function])


def test_every_place_of_a_tensor_is_looked_at(tmp_path: Path) -> None:
    found = find_external_data(save(tmp_path / "g.onnx", make_model()))
    places = {"of_subgraph", "of_node", "of_list", "of_graph", "of_sparse", "of_indices", "of_function"}
    assert found == {*places, "../outside"}


def test_a_graph_without_other_files_names_none(artifact: Path) -> None:
    assert find_external_data(artifact / "image.onnx") == set()


@pytest.mark.parametrize("content", [b"\xff" * 40, b"\x0a\x7fshort", b"\x3a\x05\x3a\x7f", bytes(range(256))])
def test_what_is_no_graph_is_an_error_of_ours(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(runtime.IntegrityError, match="is not an ONNX graph"):
        find_external_data(tmp_path / "g.onnx")


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([], "g", [], [], initializer=[external("a", "weights.data")])
    save(tmp_path / "g.onnx", helper.make_model(graph))
    (tmp_path / "weights.data").write_bytes(bytes(16))
    check_external_data(tmp_path, "g.onnx", "weights.data")
    with pytest.raises(runtime.IntegrityError, match=r"takes weights from 'weights.data', which its manifest does not"):
        check_external_data(tmp_path, "g.onnx", None)
    (tmp_path / "weights.data").rename(tmp_path / "elsewhere")
    (tmp_path / "weights.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(runtime.IntegrityError, match="is a link"):
        check_external_data(tmp_path, "g.onnx", "weights.data")


def test_loading_refuses_such_a_graph_even_without_hashes(artifact: Path) -> None:
    model = onnx.load(artifact / "image.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (artifact / "other.bin").write_bytes(weights.raw_data)
    set_external_data(weights, "other.bin", offset=0, length=len(weights.raw_data))
    weights.ClearField("raw_data")
    save(artifact / "image.onnx", model)
    with pytest.raises(runtime.IntegrityError, match=r"takes weights from 'other.bin'"):
        runtime.load(artifact, provider="cpu", check_hashes=False)
