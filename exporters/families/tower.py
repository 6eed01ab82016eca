"""The common part of all towers: the record for the manifest, and the reference by torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.catalogue.options import ExportOptions
from exporters.graph.graph_input import GraphInput
from runtime.array_types import Float32Array
from runtime.artifact.manifest import Pooling, Preprocessing, Projection, TensorSpec, Tower, TowerName, Weights
from runtime.artifact.similarity import SimilarityFunction

TRACED = slice(0, 2)  # items of the traced example; two, since torch treats an axis of length 1 as a constant


class ExportableTower(ABC):
    """A tower that can be traced and compared with its library. Nothing is traced or run when it is built.

    Attributes:
        name: Kind of item.
        architecture: Architecture by the name that its library has for it; ``None`` for some models of the catalogue.
        merged: Whether weights are computed when they are loaded, and round differently on another machine. Then the
            hash in the record of the weights identifies them.
        similarity_function: The function by which the model compares two vectors.
    """

    name: TowerName
    architecture: str | None = None
    merged: bool = False
    similarity_function: SimilarityFunction = "cosine"

    def __init__(
        self,
        preprocessing: Preprocessing,
        output_dim: int,
        weights: Weights,
        options: ExportOptions,
        *,
        pooling: Pooling,
        projections: tuple[Projection, ...],
        normalized: bool = False,
        stated: bool = False,
        layers: tuple[str, ...] = (),
        library: str = "torch",
    ) -> None:
        """Build the record of the tower.

        Args:
            preprocessing: The runtime's preprocessing of an item.
            output_dim: Length of an embedding.
            weights: Origin of the weights.
            options: Options of the export; ``normalize`` replaces ``normalized``.
            pooling: The pooling in the graph.
            projections: Linear layers after the pooling, if ``layers`` does not name them.
            normalized: Whether embeddings have unit length by default.
            stated: Whether the checkpoint states pooling or projections.
            layers: All modules after the encoder in words; none if ``pooling`` and ``projections`` are all of them.
            library: Library that reads the model and gives the reference.
        """
        by_user = options.pooling is not None or options.normalize is not None
        self.output_dim = output_dim
        self.weights = weights
        self.record = Tower(
            graph=f"{self.name}.onnx",
            inputs=preprocessing.graph_inputs(),
            output=TensorSpec(name="embedding", dtype="float32", shape=("batch", output_dim)),
            preprocessing=preprocessing,
            pooling=pooling,
            projections=projections,
            normalized=normalized if options.normalize is None else options.normalize,
            decided_by="user" if by_user else "checkpoint" if stated else "default",
            layers=layers,
            reference=library,
        )

    @abstractmethod
    def module(self) -> nn.Module:
        """Return the module that becomes the graph: inputs to ``[batch, output_dim]`` float32."""

    def eager_module(self) -> nn.Module | None:
        """Return :meth:`module` with attention in plain operators, for torch's exporter; ``None``: it has no other."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the model by name, as ``--weights`` takes them; by default those of :meth:`module`."""
        return dict(self.module().state_dict())

    @abstractmethod
    def inputs(self) -> Sequence[GraphInput]:
        """Return the graph's inputs with examples, in the order of the module's arguments."""

    @abstractmethod
    def items(self) -> Sequence[Any]:
        """Return the items on which the graph is compared with torch, as ``Embedder.embed`` takes them."""

    @abstractmethod
    def embed(self, item: Any) -> Tensor:
        """Return the unmodified model's embedding of one item, with its library's preprocessing: ``[output_dim]``."""

    def write_files(self, folder: Path) -> None:
        """Write the files that preprocessing needs beside the manifest. By default, there are none."""
        del folder

    def reference(self) -> Float32Array:
        """Return the unmodified model's embedding of each item alone: ``[items, output_dim]`` float32."""
        with torch.inference_mode():
            vectors = torch.stack([self.embed(item).double() for item in self.items()])
            rows = nn.functional.normalize(vectors, dim=-1) if self.record.normalized else vectors
        array: Float32Array = rows.float().numpy()
        return array
