"""Count the nodes, operators and bytes of an ONNX graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class GraphStatistics:
    """Statistics of an ONNX graph.

    Attributes:
        nodes: Number of nodes, including those in functions and loops.
        contrib_operators: Number of nodes per operator that ONNX does not define, by ``domain:name``. Some of ONNX
            Runtime's own operators have no domain.
        size_bytes: Size of the graph's files.
        weight_types: Types of the weights and constants.
    """

    nodes: int
    contrib_operators: Mapping[str, int]
    size_bytes: int
    weight_types: Set[ir.DataType]


def graph_statistics(graph: Path, external_data: str | None) -> GraphStatistics:
    """Return the statistics of the ONNX file ``graph``, whose weights may be in ``external_data`` beside it."""
    model = ir.serde.deserialize_model(onnx.load(graph, load_external_data=False))
    nodes = [node for function in model.functions.values() for node in function.all_nodes()]
    nodes += model.graph.all_nodes()
    functions = {(identifier[0], identifier[1]) for identifier in model.functions}
    contrib = Counter(f"{node.domain}:{node.op_type}" for node in nodes if _is_contrib(node, functions))
    size = sum(graph.with_name(name).stat().st_size for name in (graph.name, external_data) if name)
    types = {value.dtype for value in model.graph.initializers.values() if value.dtype is not None}
    return GraphStatistics(nodes=len(nodes), contrib_operators=dict(contrib), size_bytes=size, weight_types=types)


def _is_contrib(node: ir.Node, functions: set[tuple[str, str]]) -> bool:
    is_onnx = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)
    return not is_onnx and (node.domain, node.op_type) not in functions
