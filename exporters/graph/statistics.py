"""What a graph is made of: its nodes, its operators, its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

_OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, kw_only=True)
class Census:
    """A graph, counted.

    Attributes:
        nodes: Number of its nodes, those of its functions and loops included.
        foreign: How many of each operator that is not ONNX's own, as ``domain:name``; some of ONNX Runtime's have no
            domain.
        size_bytes: Size of its files.
    """

    nodes: int
    foreign: Mapping[str, int]
    size_bytes: int


def take_census(graph: Path, external_data: str | None) -> Census:
    """Counts what is in the ONNX file ``graph``, whose weights may be in the file ``external_data`` beside it."""
    model = ir.serde.deserialize_model(onnx.load(graph, load_external_data=False))
    nodes = [node for function in model.functions.values() for node in function.all_nodes()]
    nodes += model.graph.all_nodes()
    functions = {(identifier[0], identifier[1]) for identifier in model.functions}
    foreign = Counter(
        f"{node.domain}:{node.op_type}"
        for node in nodes
        if not _is_own(node) and (node.domain, node.op_type) not in functions
    )
    files = [graph, *([graph.with_name(external_data)] if external_data else [])]
    return Census(nodes=len(nodes), foreign=dict(foreign), size_bytes=sum(file.stat().st_size for file in files))


def _is_own(node: ir.Node) -> bool:
    return node.domain in _OWN_DOMAINS and onnx.defs.has(node.op_type)
