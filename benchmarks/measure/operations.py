"""What one call has to do at least: operations counted from the graph as it runs, bytes from its files and arrays."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.results.schema import Work
from runtime.artifact.manifest import Tower
from runtime.errors import EmbeddingBackbonesError, InferenceError, UsageError, one_line
from runtime.machine.threads import available_threads
from runtime.session.providers import import_onnxruntime

_PRODUCT = re.compile("MatMul|Gemm|Conv|Attention|Einsum|LSTM|GRU|RNN")
_ERRORS_ONLY = 3

Array = np.ndarray[Any, Any]
Shape = Sequence[int]


class CountingError(EmbeddingBackbonesError):
    """A graph holds products whose operations are not known here."""


@dataclass(frozen=True, kw_only=True)
class _Executed:
    """A node that ran: once for each turn of the loop that it is in."""

    operator: str
    inputs: Sequence[Shape]
    output: Shape


def count_work(graph: Path, feeds: Mapping[str, Array], weight_bytes: int) -> Work:
    """Counts what one call of ``graph`` with ``feeds`` has to do.

    Operations are those of matrix products and convolutions. Everything else, such as activations, softmax, or the
    search for the farthest points, is not counted: it is bound by memory, not by arithmetic.

    The graph is run once as it is written, without optimisation, and onnxruntime's profile tells the shapes of every
    node that was executed, those of loops for each turn. Shape inference would need values, which loops and dynamic
    shapes withhold from it.

    Args:
        graph: The fp32 graph, whose products are ONNX's own; its variants do the same work.
        feeds: What it is given, for each of its inputs.
        weight_bytes: Of the variant that was measured: :func:`variant_weight_bytes`.

    Raises:
        CountingError: It holds other products, such as those of a variant that was fused.
        InferenceError: onnxruntime cannot load it, or run it on ``feeds``.
    """
    nodes, outputs = _run_profiled(graph, feeds)
    return Work(
        operations=sum(_count_operations(node, graph) for node in nodes),
        read_bytes=weight_bytes + sum(array.nbytes for array in feeds.values()),
        written_bytes=sum(output.nbytes for output in outputs),
    )


def variant_weight_bytes(folder: Path, tower: Tower, variant: str) -> int:
    """Returns the bytes of weights that a call of a variant has to read, as they are stored.

    Tables of which only rows are gathered, as those of word embeddings, are left out: a call reads a few rows.

    Args:
        folder: The artifact.
        tower: Which of its towers.
        variant: ``fp32``, or one of the tower's variants.

    Raises:
        UsageError: The tower has no such variant.
    """
    graphs = {"fp32": tower.graph} | {name: each.graph for name, each in tower.variants.items()}
    if variant not in graphs:
        raise UsageError(f"{folder} has no variant {variant!r}; take one of {', '.join(graphs)}")
    model = ir.load(folder / graphs[variant])  # does not read weights that are in a file of their own
    weights = [value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(value.const_value.nbytes for value in weights if value.const_value is not None and not _is_table(value))


def _is_table(value: ir.Value) -> bool:
    """Tells whether rows of a value are all that is used of it, be it stored in floats or to be dequantized."""
    uses = value.uses()
    return bool(uses) and all(
        use.node.op_type == "Gather"
        or (use.node.op_type == "DequantizeLinear" and all(_is_table(output) for output in use.node.outputs))
        for use in uses
    )


def _run_profiled(graph: Path, feeds: Mapping[str, Array]) -> tuple[list[_Executed], list[Array]]:
    """Returns every node that ran, and the graph's outputs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = _open(graph, Path(folder))
            outputs = session.run(None, dict(feeds))
        except Exception as exc:  # onnxruntime raises a dozen types that share no base of their own
            raise InferenceError(
                f"onnxruntime cannot run {graph} to count its operations ({one_line(exc)}); count a smaller batch"
            ) from exc
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return list(_read_events(events)), outputs


def _open(graph: Path, folder: Path) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # the profile leaves out what is prepacked
    options.intra_op_num_threads = available_threads()
    options.log_severity_level = _ERRORS_ONLY
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
    """Returns the shape out of ``{"float": [2, 3]}``."""
    return next(iter(typed.values()))


def _count_operations(node: _Executed, graph: Path) -> int:
    """Returns two for each multiplication with its addition: for each number of the output, those that make it up."""
    if node.operator == "MatMul":
        summed = node.inputs[0][-1]
    elif node.operator == "Gemm":  # its first matrix may be transposed
        summed = math.prod(node.inputs[0]) // node.output[0]
    elif node.operator == "Conv":  # weights are [channels, channels of the input / groups, *kernel]
        summed = math.prod(node.inputs[1][1:])
    elif _PRODUCT.search(node.operator):
        raise CountingError(
            f"{graph} has a node {node.operator}, whose operations are not counted; take the artifact's fp32 graph"
        )
    else:
        return 0
    return 2 * math.prod(node.output) * summed
