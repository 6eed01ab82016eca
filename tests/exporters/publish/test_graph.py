from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporters.errors import PublishError
from exporters.graph.initializers import initializer_array
from exporters.graph.onnx_file import load_graph
from exporters.publish.graph import save_graph, take_padded_ids, take_pixel_values
from exporters.publish.hidden_state import find_hidden_state
from exporters.publish.int8 import use_unsigned_weights
from exporters.publish.proof import run_graph
from runtime.artifact.manifest import Pooling
from tests.exporters.publish.toys import write_clip_artifact, write_image_artifact, write_text_artifact
from tests.runtime.toy_artifact import write_artifact


@pytest.mark.parametrize("pooling", [Pooling(method="mean"), Pooling(method="cls"), Pooling(method="lasttoken")])
def test_token_features_are_those_before_the_mask(pooling: Pooling, tmp_path: Path) -> None:
    model = load_graph(write_text_artifact(tmp_path / "toy", pooling=pooling) / "text.onnx")
    found = find_hidden_state(model)
    assert (found.tensor.name, found.width) == ("hidden", 6)


def test_a_graph_without_token_features_is_refused(tmp_path: Path) -> None:
    model = load_graph(write_artifact(tmp_path / "toy") / "text.onnx")  # it adds up its inputs
    with pytest.raises(PublishError, match="no token features"):
        find_hidden_state(model)


def test_unsigned_weights_have_the_same_values(tmp_path: Path) -> None:
    path = write_text_artifact(tmp_path / "toy", int8=True) / "text.int8.onnx"
    model = load_graph(path)
    use_unsigned_weights(model)
    assert initializer_array(model.graph.initializers["mix/int8"]).dtype == np.uint8
    save_graph(model, tmp_path / "unsigned.onnx")
    ids = np.array([[2, 4, 5, 3]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    graphs = (path, tmp_path / "unsigned.onnx")
    signed, unsigned = (run_graph(each, feeds, optimization="ORT_DISABLE_ALL")[0] for each in graphs)
    assert np.array_equal(signed, unsigned)


def test_only_the_normalisation_of_pixels_is_cut_off(tmp_path: Path) -> None:
    model = load_graph(write_image_artifact(tmp_path / "toy") / "image.onnx")
    take_pixel_values(model, "pixel_values", 8)
    assert [node.op_type for node in model.graph] == ["Shape", "Concat", "Reshape", "MatMul"]
    assert set(model.graph.initializers) == {"row", "weight"}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_graph_that_does_not_normalise_is_refused(tmp_path: Path) -> None:
    model = load_graph(write_image_artifact(tmp_path / "toy") / "image.onnx")
    model.graph[0].op_type = "Identity"
    with pytest.raises(PublishError, match="does not begin with the normalisation"):
        take_pixel_values(model, "pixel_values", 8)


def test_padded_ids_give_the_mask(tmp_path: Path) -> None:
    folder = write_clip_artifact(tmp_path / "toy")
    model = load_graph(folder / "text.onnx")
    take_padded_ids(model, "text", 8, 0)
    save_graph(model, tmp_path / "padded.onnx")
    ids = np.array([[2, 4, 5, 3, 0, 0, 0, 0]])
    (padded,) = run_graph(tmp_path / "padded.onnx", {"text": ids.astype(np.int32)})
    (masked,) = run_graph(folder / "text.onnx", {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)})
    assert np.array_equal(padded, masked)
