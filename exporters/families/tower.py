"""The interface between a model family and the export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from exporters.graph.graph_input import GraphInput
from runtime.artifact.manifest import Tower, TowerName, Weights

if TYPE_CHECKING:
    from torch import nn


class ExportableTower(Protocol):
    """A tower that can be traced and compared with torch."""

    name: TowerName
    record: Tower
    weights: Weights
    output_dim: int

    def module(self) -> nn.Module:
        """Return the module that becomes the graph: inputs to ``[batch, output_dim]`` float32."""

    def inputs(self) -> Sequence[GraphInput]:
        """Return the graph's inputs, in the order of the module's arguments."""

    def items(self) -> Sequence[Any]:
        """Return the items on which the graph is compared with torch, as ``Embedder.embed`` takes them."""

    def write_files(self, folder: Path) -> None:
        """Write into the artifact the files that preprocessing needs beside the manifest."""

    def reference(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the unmodified model's embeddings of :meth:`items`: ``[items, output_dim]`` float32."""
