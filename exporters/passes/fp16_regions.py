"""Find the nodes of a graph that must stay in float32 because of their operator, whatever their values are."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

from exporters.passes.fp16_values import Fp32Dataflow

_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# Operators that take or give float32 by definition, or have no float16 kernel.
_FP32_ONLY = (
    frozenset(DEFAULT_OP_BLOCK_LIST)
    | {"Cast", "CastLike", "Loop", "If", "Scan", "Resize", "GroupNorm", "SkipGroupNorm", "Det"}
    | {"Constant", "ConstantOfShape", "EyeLike", "Bernoulli", "Multinomial"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "GatherBlockQuantized"}
)
# The steps of a normalization that was not fused. T5's own code computes them in float32 too:
# https://github.com/huggingface/transformers/blob/main/src/transformers/models/t5/modeling_t5.py (T5LayerNorm)
_STATISTICS = frozenset({"Pow", "Sqrt", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"})
# Operators that cost time and gain from float16: no float32 region grows over them.
_HEAVY = (
    frozenset({"MatMul", "Gemm", "Einsum", "FusedMatMul", "Conv", "ConvTranspose", "FusedConv", "LSTM", "GRU", "RNN"})
    | {"Attention", "MultiHeadAttention", "PackedMultiHeadAttention", "GroupQueryAttention", "Softmax"}
    | {"LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "SimplifiedLayerNormalization"}
    | {"SkipSimplifiedLayerNormalization", "BatchNormalization", "InstanceNormalization"}
    | {"BiasGelu", "FastGelu", "Gelu", "QuickGelu"}
)
# Operators that make up a pooling, before the pooled axis is gone.
_POOLING = (
    frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "GlobalAveragePool", "GlobalMaxPool"})
    | {"AveragePool", "MaxPool", "Pow", "Sqrt", "Reciprocal", "Mul", "Div", "Sub", "Clip", "Abs", "Max", "Min", "Where"}
    | {"Cast", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Concat", "Identity"}
    | {"Gather", "GatherND", "GatherElements"}
)
_ROUNDING_SAFE = frozenset({"Shape", "Size", "IsNaN", "IsInf"})  # rounding does not change their result


def find_fp32_regions(graph: Fp32Dataflow) -> set[ir.Node]:
    """Return the nodes that stay in float32 in every float16 graph.

    - The preparation of inputs: pixels scaled to the network's range, points moved to their neighbourhood.
    - The nodes that indices and booleans are computed from; float16 would choose other points.
    - The statistics of normalizations.
    - The pooling and all nodes after it.
    - Loops, conditions, and operators without a float16 kernel.
    - Cheap nodes between these.
    """
    nodes = [node for node in graph.graph if graph.inputs(node) or graph.outputs(node)]
    kept = {node for node in nodes if node.op_type in _FP32_ONLY | _STATISTICS or node.domain not in _DOMAINS}
    kept |= {node for node in nodes if _is_scaled_by_root(graph, node)}
    kept |= _find_preparation(graph, nodes) | _find_decisions(graph, nodes) | _find_pooling(graph)
    return close_gaps(graph, kept)


def close_gaps(graph: Fp32Dataflow, kept: Iterable[ir.Node]) -> set[ir.Node]:
    """Return ``kept`` and the cheap nodes between them, whose casts would cost more than float16 saves."""
    kept = set(kept)
    gaps = {node for node in graph.graph if node.op_type not in _HEAVY and graph.producers(node)} - kept
    while at_border := {node for node in gaps if not (kept | gaps).issuperset(graph.neighbours(node))}:
        gaps -= at_border
    return kept | gaps


def _find_pooling(graph: Fp32Dataflow) -> set[ir.Node]:
    """Return the pooling and the nodes after it: projections and the normalization.

    The search starts at the outputs and goes backwards. A node with outputs of one or two axes (``[batch, features]``)
    comes after the pooling. A node with more axes belongs to the pooling if its operator does. Matrix products,
    convolutions, activations and residual sums belong to the network.
    """
    pooled, pooling = set[ir.Node](), set[ir.Node]()
    ends = [node for value in graph.graph.outputs if (node := value.producer()) is not None]
    waiting = [(node, True) for node in ends if graph.outputs(node)]
    while waiting:
        node, is_last = waiting.pop()
        is_pooled = is_last and all(1 <= graph.rank(value) <= 2 for value in graph.outputs(node))
        seen = pooled if is_pooled else pooling
        if node in seen or not (is_pooled or node.op_type in _POOLING or node in ends):
            continue
        seen.add(node)
        waiting.extend((producer, is_pooled) for producer in graph.producers(node))
    return pooled | pooling


def _is_scaled_by_root(graph: Fp32Dataflow, node: ir.Node) -> bool:
    roots = {"Sqrt", "Reciprocal"}
    return node.op_type in {"Mul", "Div"} and any(producer.op_type in roots for producer in graph.producers(node))


def _find_preparation(graph: Fp32Dataflow, nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the nodes that process the graph's inputs before the first costly node."""
    prepared = set[ir.Node]()

    def is_prepared(value: ir.Value) -> bool:
        producer = value.producer()
        return producer is None or producer in prepared or producer.op_type in _FP32_ONLY

    for node in nodes:  # in topological order
        values = graph.activations(node)
        if values and node.op_type not in _HEAVY and all(map(is_prepared, values)):
            prepared.add(node)
    return prepared


def _find_decisions(graph: Fp32Dataflow, nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the nodes that turn float32 into another type, loops and conditions, and all nodes before them."""
    found, waiting = set[ir.Node](), [node for node in nodes if _decides(graph, node)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph.producers(node))
    return found


def _decides(graph: Fp32Dataflow, node: ir.Node) -> bool:
    if not graph.inputs(node) or node.op_type in _ROUNDING_SAFE:
        return False
    gives_other = any(value.name and not graph.is_float(value) for value in node.outputs)
    return gives_other or node.op_type in {"Loop", "If", "Scan"}
