"""Biases that mask padding or later tokens become lengths; other biases stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser

from exporters.passes.key_lengths import use_key_lengths
from runtime.array_types import Array

_WIDTH = 8
_SEEN = {
    "padding": "seen = Identity(of_text)",
    "later tokens": "seen = GreaterOrEqual(query, key)",
    "padding and later tokens": "before = GreaterOrEqual(query, key) seen = And(before, of_text)",
    "a window": "apart = Sub(query, key) far = Abs(apart) near = Less(far, two) seen = And(near, of_text)",
    "a wide window": "apart = Sub(query, key) far = Abs(apart) near = Less(far, wide) seen = And(near, of_text)",
    "a window too wide to probe": "apart = Sub(query, key) near = Less(apart, widest) seen = And(near, of_text)",
    "nothing": "seen = GreaterOrEqual(key, none)",
    "a word": "first = Unsqueeze(input_ids, middle) word = Greater(first, none) seen = And(word, of_text)",
}
_GRAPH = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
toy (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, sequence, 8] embedding) {
    none = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  two = Constant <value_int = 2> ()
    wide = Constant <value_int = 64> ()  widest = Constant <value_int = 4096> ()
    middle = Constant <value_ints = [1, 2]> ()  rows = Constant <value_ints = [1]> ()
    zero = Constant <value_float = 0.0> ()  lowest = Constant <value_float = -3.4028234663852886e38> ()
    mask = Cast <to = 9> (attention_mask)  of_text = Unsqueeze(mask, middle)
    x = Gather(words, input_ids)  lengths = Shape <start = 1, end = 2> (x)  length = Squeeze(lengths)
    key = Range(none, length, one)  query = Unsqueeze(key, rows)
    SEEN
    chosen = Where(seen, zero, lowest)
    batch = Shape <end = 1> (attention_mask)  shape = Concat <axis = 0> (batch, rows, lengths, lengths)
    bias = Expand(chosen, shape)
    y = com.microsoft.Attention <num_heads = 2> (x, weight, offset, , , bias)
    embedding = com.microsoft.MultiHeadAttention <num_heads = 2> (y, y, y, , , bias)
}
"""


def build(kind: str) -> ir.Model:
    proto = parser.parse_model(_GRAPH.replace("SEEN", _SEEN[kind]))
    rng = np.random.default_rng(0)
    for name, shape in {"words": (5000, _WIDTH), "weight": (_WIDTH, 3 * _WIDTH), "offset": (3 * _WIDTH,)}.items():
        array = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def embed(model: ir.Model) -> Iterator[Array]:
    """Yield the vectors of the tokens, without those of padding."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    for batch, sequence in ((1, 1), (3, 7), (5, 32), (2, 200)):
        rng = np.random.default_rng(sequence)
        mask = np.arange(sequence) < rng.integers(1, sequence + 1, (batch, 1))
        feeds = {"input_ids": rng.integers(0, 20, mask.shape), "attention_mask": mask.astype(np.int64)}
        yield session.run(None, feeds)[0][mask]


@pytest.mark.parametrize("kind", _SEEN)
def test_the_vectors_stay_the_same(kind: str) -> None:
    model = build(kind)
    before = list(embed(model))
    use_key_lengths(model)
    for old, new in zip(before, embed(model), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "mask", "causal"),
    [
        ("padding", True, 0),
        ("later tokens", False, 1),
        ("padding and later tokens", False, 1),
        ("nothing", False, 0),
    ],
)
def test_the_operators_get_no_bias(kind: str, mask: bool, causal: int) -> None:
    model = build(kind)
    use_key_lengths(model)
    attention = [node for node in model.graph if node.domain == "com.microsoft"]
    assert [node.op_type for node in attention] == ["Attention", "MultiHeadAttention"]
    for node, place in zip(attention, (3, 4), strict=True):
        inputs = [*node.inputs, None, None, None][:6]
        assert (inputs[place] is not None, inputs[5]) == (mask, None)
        assert node.attributes.get_int("unidirectional", 0) == causal
    assert not any(node.op_type == "Where" for node in model.graph)


@pytest.mark.parametrize(
    "kind", ["a window", "a wide window", "a window too wide to probe", "a word", "relative positions"]
)
def test_other_biases_stay(kind: str) -> None:
    model = build("padding" if kind == "relative positions" else kind)
    if kind == "relative positions":
        visible = next(node for node in model.graph if node.outputs[0].name == "zero")
        visible.attributes["value_float"] = ir.AttrFloat32("value_float", 0.5)
    use_key_lengths(model)
    attention = [node for node in model.graph if node.domain == "com.microsoft"]
    assert all(node.inputs[5] is not None and "unidirectional" not in node.attributes for node in attention)


def test_the_lengths_come_with_offsets_and_no_text_is_empty() -> None:
    model = build("padding")
    use_key_lengths(model)
    proto = ir.to_proto(model)
    (name,) = {node.input[3] for node in proto.graph.node if node.op_type == "Attention"}
    proto.graph.output.append(helper.make_tensor_value_info(name, 6, None))
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]])
    session = ort.InferenceSession(proto.SerializeToString())
    lengths = session.run([name], {"input_ids": mask, "attention_mask": mask})[0]
    np.testing.assert_array_equal(lengths, [3, 1, 0, 4, 8, 0, 4, 8])
    inserted = {node.op_type for node in proto.graph.node if node.name.startswith("attention_mask/")}
    assert not inserted & {"Shape", "Range"}  # the CPU would compute them
