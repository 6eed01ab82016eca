"""What the pipeline exports: one tower per kind of item, each with its torch reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from runtime.artifact.manifest import TensorSpec, Tower, TowerName, Weights


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """One input of a graph to be traced.

    Attributes:
        spec: Name, dtype and shape; an axis that is a string there is dynamic in the graph.
        example: A tensor of that shape. Its dynamic axes are 2 or longer: torch takes a length of 1 for a constant.
    """

    spec: TensorSpec
    example: Tensor


class ExportableTower(Protocol):
    """A tower, ready to be traced and to be compared with."""

    name: TowerName
    record: Tower
    weights: Weights
    output_dim: int

    def module(self) -> nn.Module:
        """Returns the module that becomes the graph: inputs to ``[batch, output_dim]`` float32."""

    def inputs(self) -> Sequence[GraphInput]:
        """Returns the graph's inputs, in the order of the module's arguments."""

    def items(self) -> Sequence[Any]:
        """Returns the real items on which the graph is judged, as ``Embedder.embed`` takes them."""

    def write_files(self, folder: Path) -> None:
        """Writes into the artifact what preprocessing needs besides the manifest."""

    def reference(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Returns what the unmodified model gives for :meth:`items`: ``[items, output_dim]`` float32."""
