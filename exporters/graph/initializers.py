"""Add constants to a graph, and read them from it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.errors import GraphError
from runtime.array_types import Array


def add_initializer(graph: ir.Graph, name: str, array: Array | np.generic) -> ir.Value:
    """Register ``array`` as an initializer of ``graph``."""
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(np.shape(array)), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def initializer_array(value: ir.Value) -> Array:
    """Return the content of an initializer.

    Raises:
        GraphError: The initializer has no content.
    """
    if value.const_value is None:
        raise GraphError(f"the weight {value.name} of the graph has no values; export the model again")
    return value.const_value.numpy()
