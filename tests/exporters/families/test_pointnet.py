from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from exporters.catalogue.options import OPSETS
from exporters.families.pointnet.network import PointNetEmbedding, PointNetSizes
from exporters.graph.graph_input import GraphInput
from exporters.graph.trace import build_graph
from exporters.modules.point_sampling import farthest_points, nearest_neighbors
from exporters.samples.point_clouds import load_shapes
from exporters.weights.random_init import calibrate_batch_norms
from runtime.artifact.manifest import TensorSpec

Array = np.ndarray[Any, Any]

CHOSEN, CENTROIDS, NEIGHBORS = 64, 16, 32
TOY = PointNetSizes(
    num_centroids=(24, 10),
    num_neighbors=(8, 6),
    widths=((6, 8), (10, 12), (14, 16)),
    hidden_dim=20,
    output_dim=12,
)
KINDS = ("random", "grid", "tenths", "duplicated", "identical")
SIZES = ((1, 600), (2, 1000), (5, 2048))  # the graphs are traced at (3, 700)


def make_clouds(kind: str, batch: int, num_points: int) -> Array:
    rng = np.random.default_rng(num_points)
    if kind == "random":
        clouds = rng.normal(size=(batch, num_points, 3))
    elif kind in ("grid", "tenths"):  # in tenths, what would be equal differs by rounding, as the order of sums decides
        cells = np.stack(np.meshgrid(*[np.arange(13)] * 3), axis=-1).reshape(-1, 3)
        clouds = np.stack([rng.permutation(cells)[:num_points] for _ in range(batch)]) * (1 if kind == "grid" else 0.1)
    elif kind == "duplicated":  # fewer different points than are chosen
        clouds = rng.normal(size=(batch, CHOSEN - 10, 3))[:, rng.integers(CHOSEN - 10, size=num_points)]
    else:
        clouds = np.full((batch, num_points, 3), 0.1)
    return clouds.astype(np.float32)


def squared_distances(points: Array, center: Array) -> Array:
    dx, dy, dz = (points - center).T
    return np.asarray(dx * dx + dy * dy + dz * dz)


def choose_farthest(points: Array, count: int) -> Array:
    chosen = [0]
    while len(chosen) < count:
        nearest = np.min([squared_distances(points, points[index]) for index in chosen], axis=0)
        chosen.append(int(np.flatnonzero(nearest == nearest.max())[0]))
    return np.array(chosen)


def choose_nearest(points: Array, center: Array, count: int) -> Array:
    return np.lexsort((np.arange(len(points)), squared_distances(points, center)))[:count]


def choose(points: Array) -> Array:
    """Return the points that ``Choices`` chooses from one cloud."""
    chosen = choose_farthest(points, CHOSEN)
    neighbors = [choose_nearest(points, center, NEIGHBORS) for center in points[chosen[:CENTROIDS]]]
    return np.concatenate([chosen, *neighbors, chosen])


class Choices(nn.Module):
    """Both operators side by side, and one of them twice."""

    def forward(self, points: Tensor) -> Tensor:
        chosen = farthest_points(points, CHOSEN)
        centroids = points.gather(1, chosen[:, :CENTROIDS, None].expand(-1, -1, 3))
        neighbors = nearest_neighbors(points, centroids, NEIGHBORS).flatten(1)
        return torch.cat([chosen, neighbors, farthest_points(2 * points, CHOSEN)], dim=1)


def trace(module: nn.Module, output: TensorSpec, opset: int) -> onnx.ModelProto:
    spec = TensorSpec(name="points", dtype="float32", shape=("batch", "num_points", 3))
    example = torch.from_numpy(make_clouds("random", 3, 700))
    return ir.to_proto(build_graph(module, [GraphInput(spec=spec, example=example)], output, opset=opset))


def trace_toy(model: nn.Module) -> onnx.ModelProto:
    output = TensorSpec(name="embedding", dtype="float32", shape=("batch", TOY.output_dim))
    return trace(model, output, OPSETS[0])


def load(graph: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def choices_graph() -> onnx.ModelProto:
    size = 2 * CHOSEN + CENTROIDS * NEIGHBORS
    output = TensorSpec(name="embedding", dtype="int64", shape=("batch", size))
    return trace(Choices(), output, OPSETS[-1])


@pytest.fixture(scope="module")
def choices(choices_graph: onnx.ModelProto) -> ort.InferenceSession:
    return load(choices_graph)


@pytest.fixture(scope="module")
def toy() -> PointNetEmbedding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PointNetEmbedding(TOY).eval()
    calibrate_batch_norms(model, torch.from_numpy(make_clouds("random", 8, 500)))
    return model


@pytest.fixture(scope="module")
def toy_graph(toy: PointNetEmbedding) -> onnx.ModelProto:
    return trace_toy(toy)


@pytest.mark.parametrize(("batch", "num_points"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_and_the_graph_choose_the_same_points(
    kind: str, batch: int, num_points: int, choices: ort.InferenceSession
) -> None:
    clouds = make_clouds(kind, batch, num_points)
    expected = np.stack([choose(cloud) for cloud in clouds])
    np.testing.assert_array_equal(Choices()(torch.from_numpy(clouds)).numpy(), expected)
    np.testing.assert_array_equal(choices.run(None, {"points": clouds})[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_choice_leans_on_the_order_of_equal_values(
    kind: str, choices: ort.InferenceSession, choices_graph: onnx.ModelProto
) -> None:
    """CUDA's kernels promise no order. Here the last of equal values wins in ArgMax, and all keys of TopK differ."""
    graph = copy.deepcopy(choices_graph)
    bodies = [loop.attribute[0].g for loop in graph.graph.node if loop.op_type == "Loop"]
    for node in [node for body in bodies for node in body.node if node.op_type == "ArgMax"]:
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(key, 1) for key in ("axis", "select_last_index"))
    (top,) = [node for node in graph.graph.node if node.op_type == "TopK"]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(top.input[0], onnx.TensorProto.DOUBLE, None))
    clouds = make_clouds(kind, 2, 300)
    chosen, keys = load(graph).run(None, {"points": clouds})
    np.testing.assert_array_equal(chosen, choices.run(None, {"points": clouds})[0])
    for row in keys.reshape(-1, keys.shape[-1]):
        distances = row[row > 0]  # at distance 0 the points are the same
        assert len(np.unique(distances)) == len(distances)


def test_equal_distances_in_a_long_row_have_one_winner(choices: ort.InferenceSession) -> None:
    """Onnxruntime chooses among algorithms by the length of a row."""
    cells = np.random.default_rng(0).integers(0, 12, size=(1, 30_000, 3)).astype(np.float32)
    np.testing.assert_array_equal(choices.run(None, {"points": cells})[0], choose(cells[0])[None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_choice_from_a_choice_is_its_beginning(kind: str) -> None:
    """The network's second level relies on it."""
    points = torch.from_numpy(make_clouds(kind, 1, 800)[0])
    chosen = points[farthest_points(points[None], CHOSEN)[0]]
    again = chosen[farthest_points(chosen[None], CENTROIDS)[0]]
    torch.testing.assert_close(again, chosen[:CENTROIDS], rtol=0, atol=0)


def test_with_fewer_points_than_are_chosen_the_first_repeats() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]])
    assert farthest_points(points, 6).tolist() == [[0, 2, 1, 0, 0, 0]]


def test_the_network_is_the_papers(toy: PointNetEmbedding) -> None:
    clouds = make_clouds("random", 2, 300)
    state = {name: tensor.double().numpy() for name, tensor in toy.state_dict().items()}
    expected = np.stack([embed(state, cloud) for cloud in clouds])
    with torch.inference_mode():
        np.testing.assert_allclose(toy(torch.from_numpy(clouds)).numpy(), expected, rtol=1e-4, atol=1e-5)


def embed(state: Mapping[str, Array], points: Array) -> Array:
    """PointNet++ for one cloud, spelt out: every level searches, every group is on its own."""
    features: Array = np.empty((len(points), 0))
    for level in (0, 1):
        centers = points[choose_farthest(points, TOY.num_centroids[level])]
        groups = [choose_nearest(points, center, TOY.num_neighbors[level]) for center in centers]
        rows = [
            np.concatenate([points[group] - center, features[group]], axis=1)
            for center, group in zip(centers, groups, strict=True)
        ]
        features = np.stack([abstract(state, level, group) for group in rows])
        points = centers
    encoded = abstract(state, 2, np.concatenate([points - points.mean(axis=0), features], axis=1))
    hidden = normalize(state, "_projector.model.1", encoded @ state["_projector.model.0.weight"].T)
    return np.maximum(hidden, 0) @ state["_projector.model.3.weight"].T + state["_projector.model.3.bias"]


def abstract(state: Mapping[str, Array], level: int, rows: Array) -> Array:
    encoder = f"_point_encoder.sa{level + 1}"
    for layer in (0, 1):
        weight, bias = (state[f"{encoder}.mlp_convs.{layer}.{name}"] for name in ("weight", "bias"))
        rows = np.maximum(normalize(state, f"{encoder}.mlp_bns.{layer}", rows @ weight[:, :, 0, 0].T + bias), 0)
    return np.asarray(rows.max(axis=0))


def normalize(state: Mapping[str, Array], norm: str, rows: Array) -> Array:
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
    return np.asarray((rows - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"])


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "num_points"), SIZES)
def test_the_graph_embeds_as_torch_does(
    batch: int, num_points: int, toy: PointNetEmbedding, toy_graph: onnx.ModelProto
) -> None:
    session = load(toy_graph)
    for kind in KINDS:
        clouds = make_clouds(kind, batch, num_points)
        with torch.inference_mode():
            expected = toy(torch.from_numpy(clouds)).numpy()
        error = np.abs(session.run(None, {"points": clouds})[0] - expected).max()
        assert error <= 1e-5 * np.abs(expected).max()


def test_in_float64_the_same_points_are_chosen(toy: PointNetEmbedding) -> None:
    """Distances that are equal but for float32's rounding: in float64 another point would win."""
    clouds = torch.from_numpy(make_clouds("tenths", 2, 600))
    with torch.inference_mode():
        exact = copy.deepcopy(toy).double()(clouds.double())
        torch.testing.assert_close(toy(clouds).double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_graph_is_plain_onnx(toy_graph: onnx.ModelProto) -> None:
    assert [(opset.domain, opset.version) for opset in toy_graph.opset_import] == [("", OPSETS[0])]
    assert not toy_graph.functions
    assert [node.op_type for node in toy_graph.graph.node].count("Loop") == 1
    data = toy_graph.SerializeToString()
    for trace in (b".py", b"site-packages", b"embedding_backbones", b"onnxscript", b"pkg."):
        assert trace not in data


@pytest.mark.slow
def test_two_exports_have_the_same_bytes(toy: PointNetEmbedding, toy_graph: onnx.ModelProto) -> None:
    assert trace_toy(toy).SerializeToString() == toy_graph.SerializeToString()


@pytest.mark.process
def test_the_translations_do_not_depend_on_the_process() -> None:
    """Python hashes strings by a seed; with these two onnxscript orders the variables of a loop differently."""
    code = (
        "from exporters.modules.point_sampling import TRANSLATIONS\n"
        "print([function.to_function_proto().SerializeToString() for function in TRANSLATIONS.values()])"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
        for seed in ("0", "1")
    ]
    assert outputs[0].returncode == 0, outputs[0].stderr.decode()
    assert outputs[0].stdout == outputs[1].stdout


def test_the_names_are_those_of_finetuners_checkpoints() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    levels = [(level, layer) for level in (1, 2, 3) for layer in (0, 1, 2)]
    expected = {f"_point_encoder.sa{i}.mlp_convs.{j}.{name}" for i, j in levels for name in ("weight", "bias")}
    expected |= {f"_point_encoder.sa{i}.mlp_bns.{j}.{name}" for i, j in levels for name in norm}
    expected |= {f"_projector.model.1.{name}" for name in norm}
    expected |= {"_projector.model.0.weight", "_projector.model.3.weight", "_projector.model.3.bias"}
    with torch.device("meta"):
        state = PointNetEmbedding().state_dict()
    assert set(state) == expected
    widths = [3, 64, 64, 128, 131, 128, 128, 256, 259, 256, 512, 1024]
    inputs = [state[f"_point_encoder.sa{i}.mlp_convs.{j}.weight"].shape[1] for i, j in levels]
    assert inputs == [*widths[0:3], *widths[4:7], *widths[8:11]]
    outputs = [state[f"_point_encoder.sa{i}.mlp_convs.{j}.weight"].shape[0] for i, j in levels]
    assert outputs == [*widths[1:4], *widths[5:8], *widths[9:12]]
    assert state["_projector.model.0.weight"].shape == (4096, 1024)
    assert state["_projector.model.3.weight"].shape == (512, 4096)


def test_calibration_twice_is_calibration_once(toy: PointNetEmbedding) -> None:
    clouds = torch.from_numpy(make_clouds("random", 8, 500))
    model = copy.deepcopy(toy)
    calibrate_batch_norms(model, 3 * clouds)
    calibrate_batch_norms(model, clouds)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in toy.state_dict().items())
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    variances = [tensor for name, tensor in model.state_dict().items() if name.endswith("running_var")]
    assert not any(bool((variance == 1).all()) for variance in variances)


def test_the_shapes_are_different_clouds_of_a_size_that_the_network_takes() -> None:
    shapes = load_shapes()
    for shape, again in zip(shapes, load_shapes(), strict=True):
        assert shape.dtype == np.float32
        assert shape.shape[1:] == (3,)
        assert len(shape) >= PointNetSizes().num_centroids[0]
        assert np.isfinite(shape).all()
        np.testing.assert_array_equal(shape, again)
    assert len({shape.tobytes() for shape in shapes}) == len(shapes) == 8
    assert len({len(shape) for shape in shapes}) > 1
    assert min(len(np.unique(shape, axis=0)) for shape in shapes) < PointNetSizes().num_centroids[0]


def test_equal_distances_in_the_lattice_survive_centring_and_scaling() -> None:
    (lattice,) = (shape for shape in load_shapes() if len(shape) == 2109)
    centred = lattice - lattice.mean(axis=0)
    scaled = centred / np.linalg.norm(centred, axis=1).max()
    np.testing.assert_array_equal(scaled * 8, lattice)
