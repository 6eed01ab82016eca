"""Show the float32 values of a graph: the nodes that produce them and the nodes that consume them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporters.calibration.magnitudes import TensorType


@dataclass(frozen=True)
class Fp32Dataflow:
    """The nodes of a graph and the float32 values between them, without the bodies of loops and conditions.

    Attributes:
        graph: The graph.
        types: Type of each node's outputs, from :func:`exporters.calibration.magnitudes.infer_types`.
    """

    graph: ir.Graph
    types: Mapping[str, TensorType]

    def is_float(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is float32 and belongs to this graph, not to a body."""
        if value is None or value.graph is not self.graph:
            return False
        if value.producer() is None:
            return value.dtype == ir.DataType.FLOAT
        kind = self.types.get(value.name or "")
        return kind is not None and kind.is_float

    def weights(self) -> list[ir.Value]:
        """Return the float32 weights and constants of the graph."""
        return [value for value in self.graph.initializers.values() if self.is_float(value)]

    def rank(self, value: ir.Value) -> int:
        """Return the number of axes of a node's output."""
        return self.types[value.name or ""].rank

    def inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the float32 inputs of ``node`` and of the nodes in its bodies."""
        values = [value for part in (node, *_body_nodes(node)) for value in part.inputs]
        return [value for value in values if value is not None and self.is_float(value)]

    def activations(self, node: ir.Node) -> list[ir.Value]:
        """Return the float32 inputs of ``node`` without weights and constants."""
        return [value for value in self.inputs(node) if not value.is_initializer()]

    def outputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the float32 outputs of ``node``."""
        return [value for value in node.outputs if self.is_float(value)]

    def producers(self, node: ir.Node) -> list[ir.Node]:
        """Return the nodes that produce the float32 inputs of ``node``."""
        return [producer for value in self.inputs(node) if (producer := value.producer()) is not None]

    def neighbours(self, node: ir.Node) -> list[ir.Node]:
        """Return the producers of the float32 inputs of ``node`` and the consumers of its float32 outputs."""
        consumers = [use.node for value in self.outputs(node) for use in value.uses()]
        return [*self.producers(node), *(each for each in consumers if each.graph is self.graph)]


def _body_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
