"""Small ONNX graphs for the tests of passes, calibration and variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from exporters.calibration.activations import open_session, run_batches
from runtime.array_types import Array

DIM = 32
LAYERS = ("first", "second", "third")  # the products of residual_graph


def save_graph(
    path: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], shape: Sequence[str | int]
) -> Path:
    """Write a graph from the input ``x`` of ``shape`` to ``embedding``, ``[batch, DIM]``."""
    output = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])]
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        output,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)  # the exporter writes shapes too
    return path


def random_weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))


def residual_graph(path: Path) -> Path:
    """Write a graph of three products in a residual stream; a few inputs of the second product are huge."""
    nodes, weights, stream = [], {}, "x"
    for seed, name in enumerate(LAYERS):
        weights[f"{name}.weight"] = random_weights(DIM, DIM, seed=seed)
        nodes.append(helper.make_node("Tanh", [stream], [f"{name}.in"], f"{name}.tanh"))
        source = f"{name}.in"
        if name == "second":
            weights["power"], weights["scale"] = np.array(99, np.float32), np.array(300, np.float32)
            nodes.append(helper.make_node("Pow", [source, "power"], ["rare"], "pow"))
            nodes.append(helper.make_node("Mul", ["rare", "scale"], ["huge"], "huge"))
            nodes.append(helper.make_node("Add", [source, "huge"], ["spread"], "spread"))
            source = "spread"
        nodes.append(helper.make_node("MatMul", [source, f"{name}.weight"], [f"{name}.out"], name))
        nodes.append(helper.make_node("Add", [f"{name}.in", f"{name}.out"], [f"{name}.sum"], f"{name}.add"))
        stream = f"{name}.sum"
    weights |= {"axes": np.array([1]), "head": random_weights(DIM, DIM, seed=9), "bias": random_weights(DIM)}
    nodes.append(helper.make_node("ReduceMean", [stream, "axes"], ["pooled"], "pool", keepdims=0))
    nodes.append(helper.make_node("MatMul", ["pooled", "head"], ["projected"], "head"))
    nodes.append(helper.make_node("Add", ["projected", "bias"], ["embedding"], "bias"))
    return save_graph(path, nodes, weights, ["batch", "sequence", DIM])


def random_batches(count: int, seed: int, *shape: int) -> list[dict[str, Array]]:
    source = np.random.default_rng(seed)
    return [{"x": source.normal(size=(4, *(shape or (6, DIM)))).astype(np.float32)} for _ in range(count)]


def embed_batches(graph: Path, batches: Sequence[dict[str, Array]]) -> Array:
    return run_batches(open_session(graph), batches, {})


def write_text_graph(path: Path, text: str, *, external: bool = False, **weights: Array | np.generic) -> Path:
    """Write a graph given in onnx's text format; arrays become initializers of the names in the text."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>\n{text}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, path, save_as_external_data=external, location="toy.data", size_threshold=0)
    return path


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def write_token_graph(path: Path, nodes: str, *, external: bool = False, **weights: Array | np.generic) -> Path:
    """Write a graph of tokens: ``start`` is a product, ``nodes`` make ``last`` of it, and its mean is ``embedding``."""
    text = f"""toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {{
        start = MatMul(x, first)
        {nodes}
        axis = Constant <value_ints = [1]> ()
        embedding = ReduceMean <keepdims = 0> (last, axis)
    }}"""
    return write_text_graph(path, text, external=external, **{"first": normal(8, 8)} | weights)


# Like T5's feed-forward: the hidden activations exceed float16, and the projection scales them back.
FEED_FORWARD = """wide = MatMul(start, widen)
    hidden = Relu(wide)
    narrow = MatMul(hidden, shrink)
    sum = Add(narrow, start)
    last = MatMul(sum, final)"""


def feed_forward_graph(path: Path, scale: float, *, external: bool = False) -> Path:
    return write_token_graph(
        path,
        FEED_FORWARD,
        external=external,
        first=normal(8, 8, seed=1, scale=scale**0.35),
        widen=normal(8, 16, scale=scale**0.65, seed=2),
        shrink=normal(16, 8, scale=scale**-0.65, seed=3),
        final=normal(8, 8, seed=4),
    )
