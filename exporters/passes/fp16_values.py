"""A graph as its float32 tensors see it: which values are float32, who makes them and who takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporters.calibration.ranges import TensorType


@dataclass(frozen=True)
class FloatGraph:
    """The nodes of a graph, without those in bodies of loops and conditions, and the float32 values between them.

    Attributes:
        graph: The graph.
        types: What each node gives, as :func:`exporters.calibration.ranges.infer_types` tells.
    """

    graph: ir.Graph
    types: Mapping[str, TensorType]

    def is_float(self, value: ir.Value | None) -> bool:
        """Tells whether ``value`` is float32, and of this graph, not of a body."""
        if value is None or value.graph is not self.graph:
            return False
        if value.producer() is None:
            return value.dtype == ir.DataType.FLOAT
        kind = self.types.get(value.name or "")
        return kind is not None and kind.is_float

    def rank(self, value: ir.Value) -> int:
        """Returns the number of axes of what a node gives."""
        return self.types[value.name or ""].rank

    def inputs(self, node: ir.Node) -> list[ir.Value]:
        """Returns the float32 values that ``node`` takes, also within its bodies."""
        values = [value for part in (node, *_within(node)) for value in part.inputs]
        return [value for value in values if value is not None and self.is_float(value)]

    def activations(self, node: ir.Node) -> list[ir.Value]:
        """Returns those of :meth:`inputs` that are no weights or constants."""
        return [value for value in self.inputs(node) if not value.is_initializer()]

    def outputs(self, node: ir.Node) -> list[ir.Value]:
        """Returns the float32 values that ``node`` gives."""
        return [value for value in node.outputs if self.is_float(value)]

    def producers(self, node: ir.Node) -> list[ir.Node]:
        """Returns the nodes that give the float32 values that ``node`` takes."""
        return [maker for value in self.inputs(node) if (maker := value.producer()) is not None]

    def neighbours(self, node: ir.Node) -> list[ir.Node]:
        """Returns the nodes that give or take the float32 values that ``node`` takes or gives; not those in bodies."""
        takers = [use.node for value in self.outputs(node) for use in value.uses()]
        return [*self.producers(node), *(taker for taker in takers if taker.graph is self.graph)]


def _within(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                yield from body.all_nodes()
