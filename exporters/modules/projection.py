"""Linear layers after the pooling."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from exporters.modules.sharing import copy_sharing_tensors
from runtime.artifact.manifest import Projection

ProjectionLayer = tuple[Projection, nn.Linear]
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


def stack_projections(layers: Sequence[ProjectionLayer]) -> nn.Sequential:
    """Return the layers, each followed by its activation: ``[batch, in]`` to ``[batch, out]``. Tensors are shared."""
    return nn.Sequential(
        *(
            module
            for record, layer in layers
            for module in (copy_sharing_tensors(layer), ACTIVATIONS[record.activation]())
        )
    )


def project_exactly(layers: Sequence[ProjectionLayer], vectors: Tensor) -> Tensor:
    """Apply the layers to ``[..., in]`` in float64, as the reference for the float32 of a graph."""
    projected: Tensor = copy.deepcopy(stack_projections(layers)).double()(vectors.double())
    return projected
