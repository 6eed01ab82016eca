"""Remove the exporter's notes from a graph, such as stack traces with paths of the exporting machine."""

from __future__ import annotations

import onnx_ir as ir


def strip_metadata(model: ir.Model) -> None:
    """Clear the metadata and doc strings of the model, its graph, its nodes and its values.

    Before: two exports from different folders differ. After: the bytes depend on weights and operators alone.
    """
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        _clear(value)
    for node in model.graph.all_nodes():
        _clear(node)
        for value in node.outputs:
            _clear(value)


def _clear(part: ir.Node | ir.Value) -> None:
    part.metadata_props.clear()
    part.doc_string = None
