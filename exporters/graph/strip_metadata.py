"""Remove the exporter's notes from a graph, such as stack traces with paths of the exporting machine."""

from __future__ import annotations

import onnx_ir as ir


def strip_metadata(model: ir.Model) -> None:
    """Clear the metadata and doc strings of the model, its graph, its nodes and its values.

    Before: two exports from different folders differ. After: the bytes depend on weights and operators alone.
    """
    graph, nodes = model.graph, list(model.graph.all_nodes())
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in nodes for value in node.outputs)]
    parts: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, graph, *nodes, *values]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None
