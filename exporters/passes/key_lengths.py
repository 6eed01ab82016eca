"""Tell fused attention the lengths of texts instead of a bias of mask values, for the fast kernels of CUDA.

With a bias, CUDA reads ``[batch, 1, sequence, sequence]`` numbers in each layer, and computes with the padding. Its
flash kernel takes neither a bias nor a mask, only ``unidirectional``. Its memory-efficient kernel, which runs on every
GPU, takes a mask only as lengths with offsets (``MASK_1D_KEY_SEQ_LEN_START``); lengths alone (``[batch]``) are for
TensorRT's kernels, which end with compute capability 8.9.

Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cuda/bert/multihead_attention.cc
and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (mask_index, key_padding_mask)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from exporters.graph.attention_masks import MASK_THRESHOLD
from exporters.graph.initializers import add_initializer
from runtime.array_types import Array
from runtime.session.options import session_options
from runtime.session.providers import import_onnxruntime

_MASK_INPUT = {"Attention": 3, "MultiHeadAttention": 4}
_BIAS_INPUT = 5  # of both
_MASK = "attention_mask"
_PROBES = ((3, 9), (2, 32), (1, 1))  # batch and sequence
_LONGEST_PROBE = 2048  # tokens, with a bias of 16 MiB


class Masking(NamedTuple):
    """What a bias masks: the keys after the end of a text, the keys after the query, or both."""

    padding: bool
    causal: bool


def use_key_lengths(model: ir.Model) -> None:
    """Replace the biases of fused attention that mask nothing but padding on the right, or later tokens.

    Other biases stay: of relative positions, of windows. Masks that are not ones followed by zeros give other results
    than before; the runtime makes none.

    Before: ``Attention(..., attention_bias)``. After: ``Attention(..., mask_index)`` with ``[3 * batch + 2]`` int32:
    the lengths, and twice the offsets of the texts. For a causal mask, the attribute ``unidirectional`` alone; then
    padding comes after all tokens that count.
    """
    lengths: ir.Value | None = None
    maskings = dict[ir.Value, Masking | None]()
    for node in [node for node in model.graph if _has_bias(node)]:
        bias = node.inputs[_BIAS_INPUT]
        if bias is not None and bias not in maskings:
            maskings[bias] = find_masking(model.graph, bias)
        masking = maskings[bias] if bias is not None else None
        if masking is None:
            continue
        node.replace_input_with(_BIAS_INPUT, None)
        if masking.causal:
            node.attributes["unidirectional"] = ir.AttrInt64("unidirectional", 1)
        elif masking.padding:
            lengths = lengths or _insert_lengths(model.graph)
            node.replace_input_with(_MASK_INPUT[node.op_type], lengths)
    passes.RemoveUnusedNodesPass()(model)


def find_masking(graph: ir.Graph, bias: ir.Value) -> Masking | None:
    """Return what ``bias`` masks for masks of ones followed by zeros, found by computing it; ``None`` if it is more.

    A window shows only in a text that is longer. So the last text is longer than every number in the computation.
    """
    if any(value.dtype != ir.DataType.INT64 or len(value.shape or ()) != 2 for value in graph.inputs):
        return None  # not a text tower
    part = ir.convenience.extract(graph, list(graph.inputs), [bias])
    session = _open_session(part)
    found = {Masking(padding, causal) for padding in (True, False) for causal in (True, False)}
    for batch, sequence in _PROBES:
        lengths = np.random.default_rng(sequence).integers(1, sequence + 1, (batch, 1))
        found = _narrow(found, session, np.arange(sequence) < lengths)
    if len(found) != 1 or (sequence := _length_beyond_numbers(part)) > _LONGEST_PROBE:
        return None
    try:
        found = _narrow(found, session, np.ones((1, sequence), bool))
    except Exception:  # noqa: BLE001  onnxruntime's errors have no common class; a table is shorter than the text
        return None
    return found.pop() if found else None


def _narrow(maskings: set[Masking], session: Any, mask: Array) -> set[Masking]:
    """Return those of ``maskings`` that the bias for ``mask`` agrees with."""
    rng, names = np.random.default_rng(mask.size), [each.name for each in session.get_inputs()]
    feeds = {name: rng.integers(0, 2, mask.shape) for name in names} | {_MASK: mask.astype(np.int64)}
    (values,) = session.run(None, {name: feeds[name] for name in names})
    return {masking for masking in maskings if _masks(values, mask, masking)}


def _length_beyond_numbers(part: ir.Graph) -> int:
    """Return a number of tokens that exceeds each number and reaches each side of a table among the constants.

    A mask value is no number, nor is the largest integer, which ends a slice.
    """
    tensors = [ir.convenience.get_const_tensor(value) for value in _values_behind(part.outputs[0])]
    length = 1
    for array in [np.abs(tensor.numpy().astype(np.float64)) for tensor in tensors if tensor is not None]:
        largest = np.max(array, initial=0, where=array < MASK_THRESHOLD)
        length = max(length, int(largest) + 2, *array.shape)
    return length


def _values_behind(value: ir.Value) -> set[ir.Value]:
    """Return the values from which ``value`` is computed. Of embeddings, a mask often needs the shape alone."""
    found, pending = set[ir.Value](), [value]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value not in found and node is not None and node.op_type != "Shape":
            pending += [each for each in node.inputs if each is not None]
        found.add(value)
    return found


def _masks(values: Array, mask: Array, masking: Masking) -> bool:
    """Return whether ``values`` are 0 where ``masking`` lets a query see a key, and mask values elsewhere."""
    batch, sequence = mask.shape
    visible = np.ones((batch, 1, sequence, sequence), bool)
    if masking.padding:
        visible &= mask[:, None, None, :]
    if masking.causal:
        visible &= np.tri(sequence, dtype=bool)
    try:
        values, visible = np.broadcast_arrays(values, visible)
    except ValueError:
        return False
    return bool((values[visible] == 0).all() and (values[~visible] <= -MASK_THRESHOLD).all())


def _open_session(part: ir.Graph) -> Any:
    model = ir.to_proto(ir.Model(part, ir_version=10)).SerializeToString()
    return import_onnxruntime().InferenceSession(model, session_options(threads=1), ["CPUExecutionProvider"])


def _has_bias(node: ir.Node) -> bool:
    place = _MASK_INPUT.get(node.op_type)
    if node.domain != "com.microsoft" or place is None or len(node.inputs) <= _BIAS_INPUT:
        return False
    return node.inputs[_BIAS_INPUT] is not None and node.inputs[place] is None


def _insert_lengths(graph: ir.Graph) -> ir.Value:
    """Insert the nodes that compute lengths and offsets from the mask, and return their result.

    All of them run on the GPU. A ``Range`` would take its limits from the CPU, which computes them from ``Shape``. On
    an H200, where another node read the same shape, ONNX Runtime 1.31 gave offsets as if the step were the limit.
    """
    mask = next(value for value in graph.inputs if value.name == _MASK)
    nodes = list[ir.Node]()

    def add(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        nodes.append(ir.node(op_type, inputs, attributes, name=f"{_MASK}/{op_type}_{len(nodes)}"))
        nodes[-1].outputs[0].name = nodes[-1].name
        return nodes[-1].outputs[0]

    def constant(name: str, value: object) -> ir.Value:
        return add_initializer(graph, f"{_MASK}/{name}", np.asarray(value))

    float32, int32 = ir.DataType.FLOAT.value, ir.DataType.INT32.value
    zero, axis = constant("zero", np.zeros(1, np.int32)), constant("axis", [1])
    one = constant("one", np.float32(1))
    values = add("Cast", mask, to=float32)
    # A text without tokens attends to its padding, as with mask values: no key at all would divide by zero.
    lengths = add("Max", add("ReduceSum", values, axis, keepdims=0), one)
    widths = add("ReduceSum", add("Max", values, one), axis, keepdims=0)  # of each text, with its padding
    ends = add("CumSum", add("Cast", widths, to=int32), constant("first_axis", 0))
    result = add("Concat", add("Cast", lengths, to=int32), zero, ends, zero, ends, axis=0)
    graph.insert_before(graph[0], nodes)
    return result
