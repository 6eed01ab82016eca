"""Which nodes of a graph must stay in float32 for what they do, whatever their values are."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

from exporters.passes.fp16_values import FloatGraph

_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# Takes or gives float32 by definition, or has no float16 kernel.
_FLOAT_ONLY = (
    frozenset(DEFAULT_OP_BLOCK_LIST)
    | {"Cast", "CastLike", "Loop", "If", "Scan", "Resize", "GroupNorm", "SkipGroupNorm", "Det"}
    | {
        "Constant",
        "ConstantOfShape",
        "EyeLike",
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
    }
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "GatherBlockQuantized"}
)
# The steps of a norm that was not fused. T5's own code takes them in float32 too:
# https://github.com/huggingface/transformers/blob/main/src/transformers/models/t5/modeling_t5.py (T5LayerNorm)
_STATISTICS = frozenset({"Pow", "Sqrt", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"})
_ROOTS = frozenset({"Sqrt", "Reciprocal"})
# What costs time: here float16 pays, so no float32 region grows over it.
_HEAVY = (
    frozenset({"MatMul", "Gemm", "Einsum", "FusedMatMul", "Conv", "ConvTranspose", "FusedConv", "LSTM", "GRU", "RNN"})
    | {"Attention", "MultiHeadAttention", "PackedMultiHeadAttention", "GroupQueryAttention", "Softmax"}
    | {"LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "SimplifiedLayerNormalization"}
    | {"SkipSimplifiedLayerNormalization", "BatchNormalization", "InstanceNormalization"}
    | {"BiasGelu", "FastGelu", "Gelu", "QuickGelu"}
)
# What a pooling is made of, before the axis that it pools is gone.
_POOLING = (
    frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "GlobalAveragePool", "GlobalMaxPool"})
    | {"AveragePool", "MaxPool", "Pow", "Sqrt", "Reciprocal", "Mul", "Div", "Sub", "Clip", "Abs", "Max", "Min", "Where"}
    | {"Cast", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Concat", "Identity"}
    | {"Gather", "GatherND", "GatherElements"}
)
_TELL_SHAPE_OR_FLAW = frozenset({"Shape", "Size", "IsNaN", "IsInf"})  # these decide on nothing that rounding changes


def find_float_regions(graph: FloatGraph) -> set[ir.Node]:
    """Returns the nodes that stay in float32 in every float16 graph.

    They are what prepares the inputs (pixels scaled to the network's range, points moved to their neighbourhood),
    what indices and truth values are made from (float16 would choose other points), the statistics of norms, the
    pooling with all that comes after it, loops and conditions, what has no float16 kernel, and what lies between these.
    """
    nodes = [node for node in graph.graph if graph.inputs(node) or graph.outputs(node)]
    kept = {node for node in nodes if node.op_type in _FLOAT_ONLY | _STATISTICS or node.domain not in _DOMAINS}
    kept |= {node for node in nodes if _is_scaled_by_root(graph, node)}
    kept |= _find_preparation(graph, nodes) | _find_decisions(graph, nodes) | find_tail(graph)
    return close_gaps(graph, kept)


def find_tail(graph: FloatGraph) -> set[ir.Node]:
    """Returns the pooling, and what makes the embedding of what it gives: projections and the normalisation.

    Back from the outputs everything belongs to it as long as it has two axes (``[batch, features]``) or fewer. Where
    there are more, only what poolings are made of; a matrix product, a convolution, an activation or a residual sum
    belongs to the network.
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


def close_gaps(graph: FloatGraph, kept: Iterable[ir.Node]) -> set[ir.Node]:
    """Returns ``kept`` and the cheap nodes between them, for which it would not pay to leave float32."""
    kept = set(kept)
    gaps = {node for node in graph.graph if node.op_type not in _HEAVY and graph.producers(node)} - kept
    while at_border := {node for node in gaps if not (kept | gaps).issuperset(graph.neighbours(node))}:
        gaps -= at_border
    return kept | gaps


def _is_scaled_by_root(graph: FloatGraph, node: ir.Node) -> bool:
    return node.op_type in {"Mul", "Div"} and any(producer.op_type in _ROOTS for producer in graph.producers(node))


def _find_preparation(graph: FloatGraph, nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Returns what is done to the graph's inputs before the first costly node takes them."""
    prepared = set[ir.Node]()

    def is_prepared(value: ir.Value) -> bool:
        maker = value.producer()
        return maker is None or maker in prepared or maker.op_type in _FLOAT_ONLY

    for node in nodes:  # in topological order
        values = graph.activations(node)
        if values and node.op_type not in _HEAVY and all(map(is_prepared, values)):
            prepared.add(node)
    return prepared


def _find_decisions(graph: FloatGraph, nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Returns what takes float32 and gives something else, or loops, and all that it was computed from."""
    found, waiting = set[ir.Node](), [node for node in nodes if _decides(graph, node)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph.producers(node))
    return found


def _decides(graph: FloatGraph, node: ir.Node) -> bool:
    if not graph.inputs(node) or node.op_type in _TELL_SHAPE_OR_FLAW:
        return False
    gives_other = any(value.name and not graph.is_float(value) for value in node.outputs)
    return gives_other or node.op_type in {"Loop", "If", "Scan"}
