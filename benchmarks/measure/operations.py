"""Count the work of one call: operations from a profiled run of the graph, bytes from its files and arrays."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks.results.schema import Work
from runtime.array_types import Array, Feeds
from runtime.artifact.manifest import Tower
from runtime.errors import EmbeddingBackbonesError, InferenceError, UsageError, one_line
from runtime.machine.threads import available_threads
from runtime.session.options import session_options
from runtime.session.providers import import_onnxruntime

_PRODUCT = re.compile("MatMul|Gemm|Conv|Attention|Einsum|LSTM|GRU|RNN")

Shape = Sequence[int]


class CountingError(EmbeddingBackbonesError):
    """A graph has products whose operations cannot be counted."""


@dataclass(frozen=True, kw_only=True)
class _Executed:
    """Node that ran; a node in a loop occurs once per iteration."""

    operator: str
    inputs: Sequence[Shape]
    output: Shape


def count_work(graph: Path, feeds: Feeds, weight_bytes: int) -> Work:
    """Count the work of one call of ``graph`` with ``feeds``.

    Matrix products and convolutions count as operations. Other nodes, such as activations, softmax or farthest point
    sampling, do not: memory limits them, not arithmetic.

    The graph runs once without optimization, and onnxruntime's profile gives the shapes of every executed node. Shape
    inference cannot give them, because loops and dynamic shapes depend on values.

    ``graph`` is the fp32 graph; its variants do the same work. ``weight_bytes`` is the result of
    :func:`variant_weight_bytes` for the measured variant.

    Raises:
        CountingError: The graph has other products, such as those of a fused variant.
        InferenceError: onnxruntime cannot load the graph, or cannot run it on ``feeds``.
    """
    nodes, outputs = _run_profiled(graph, feeds)
    return Work(
        operations=sum(_count_operations(node, graph) for node in nodes),
        read_bytes=weight_bytes + sum(array.nbytes for array in feeds.values()),
        written_bytes=sum(output.nbytes for output in outputs),
    )


def variant_weight_bytes(folder: Path, tower: Tower, variant: str) -> int:
    """Return the size of the weights that a call of a variant reads, as they are stored.

    Tables such as word embeddings are left out, because a call gathers only a few of their rows.

    Raises:
        UsageError: The tower has no such variant.
    """
    graphs = {"fp32": tower.graph} | {name: each.graph for name, each in tower.variants.items()}
    if variant not in graphs:
        raise UsageError(f"{folder} has no variant {variant!r}; choose from {', '.join(graphs)}")
    model = ir.load(folder / graphs[variant])  # does not read weights in a separate file
    weights = [value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(value.const_value.nbytes for value in weights if value.const_value is not None and not _is_table(value))


def _is_table(value: ir.Value) -> bool:
    """Tell whether the graph only gathers rows of a value, which may be stored as floats or quantized."""
    uses = value.uses()
    return bool(uses) and all(
        use.node.op_type == "Gather"
        or (use.node.op_type == "DequantizeLinear" and all(_is_table(output) for output in use.node.outputs))
        for use in uses
    )


def _run_profiled(graph: Path, feeds: Feeds) -> tuple[list[_Executed], list[Array]]:
    """Return every executed node, and the graph's outputs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = _open(graph, Path(folder))
            outputs = session.run(None, dict(feeds))
        except Exception as exc:  # onnxruntime's errors have no common base class
            raise InferenceError(
                f"onnxruntime cannot run {graph} to count its operations ({one_line(exc)}); try a smaller batch size"
            ) from exc
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return list(_read_events(events)), outputs


def _open(graph: Path, folder: Path) -> Any:
    ort = import_onnxruntime()
    no_prepacking = {"session.disable_prepacking": "1"}  # the profile does not list prepacked weights
    options = session_options(threads=available_threads(), optimization="ORT_DISABLE_ALL", config=no_prepacking)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _read_events(events: Sequence[Mapping[str, Any]]) -> Iterator[_Executed]:
    for event in events:
        if event["cat"] != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        facts = event["args"]
        yield _Executed(
            operator=facts["op_name"],
            inputs=[_shape(each) for each in facts["input_type_shape"]],
            output=_shape(facts["output_type_shape"][0]) if facts["output_type_shape"] else (),
        )


def _shape(typed: Mapping[str, Shape]) -> Shape:
    """Return the shape from a record such as ``{"float": [2, 3]}``."""
    return next(iter(typed.values()))


def _count_operations(node: _Executed, graph: Path) -> int:
    """Return the operations of a node: two for each multiplication with its addition."""
    if node.operator == "MatMul":
        summed = node.inputs[0][-1]
    elif node.operator == "Gemm":  # its first matrix may be transposed
        summed = math.prod(node.inputs[0]) // node.output[0]
    elif node.operator == "Conv":  # weights are [channels, channels of the input / groups, *kernel]
        summed = math.prod(node.inputs[1][1:])
    elif _PRODUCT.search(node.operator):
        raise CountingError(
            f"{graph} has a node {node.operator}, whose operations cannot be counted; count the fp32 graph"
        )
    else:
        return 0
    return 2 * math.prod(node.output) * summed
