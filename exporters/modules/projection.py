"""Linear layers behind the pooling."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from runtime.artifact.manifest import Projection

ProjectionLayer = tuple[Projection, nn.Linear]
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


def stack_projections(layers: Sequence[ProjectionLayer]) -> nn.Sequential:
    """Returns the layers, each a copy followed by its activation: ``[batch, in]`` to ``[batch, out]``."""
    return nn.Sequential(
        *(module for record, layer in layers for module in (copy.deepcopy(layer), _ACTIVATIONS[record.activation]()))
    )


def project_exactly(layers: Sequence[ProjectionLayer], vectors: Tensor) -> Tensor:
    """Returns what the layers make of ``[..., in]`` in float64: the reference for their float32 in a graph."""
    projected: Tensor = stack_projections(layers).double()(vectors.double())
    return projected
