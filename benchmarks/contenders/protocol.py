"""Define the interface of contenders: their target, their setup, and their operations once loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.results.schema import Precision, Stage
from runtime.artifact.manifest import Manifest, TowerName
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.tower import Row
from runtime.preprocess.item import UnusableItemError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Tower of an artifact that is benchmarked.

    Attributes:
        folder: Folder of the artifact.
        manifest: Manifest of the artifact.
        tower: Name of the tower.
        weights: Value of ``--weights`` at export; ``None`` if it is unknown.
        providers: Execution providers that are active in this environment or in one of ``pythons``.
        pythons: Interpreters of other environments, by contender or provider: ``openvino``, ``optimum``.
    """

    folder: Path
    manifest: Manifest
    tower: TowerName
    weights: str | None
    providers: tuple[str, ...] = ("cpu",)
    pythons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Contender with its settings: all that a worker process needs to load it.

    Attributes:
        contender: Key of :data:`benchmarks.contenders.registry.CONTENDERS`.
        variant: Variant of the graph, or mode of torch.
        provider: Execution provider of onnxruntime, or device of torch.
        precision: Data type of most of the arithmetic.
        stages: Stages that can be measured.
        model: Model to load: a folder, or a JSON record for torch.
        tower: Name of the tower.
        python: Interpreter of the contender's environment.
        exports: Whether the first start exports a model that later starts reuse. That start is not timed.
    """

    contender: str
    variant: str
    provider: str
    precision: Precision
    stages: tuple[Stage, ...]
    model: str
    tower: TowerName
    python: str = sys.executable
    exports: bool = False

    def __str__(self) -> str:
        return f"{self.contender} {self.variant} on {self.provider}"


class Contender(Protocol):
    """Loaded model. It runs with the number of threads that it was loaded with."""

    def embed_arrays(self, arrays: Mapping[str, Array]) -> Array:
        """Return vectors ``[batch, output_dim]`` of a batch that the tower's preprocessor collated."""

    def embed_items(self, items: Sequence[Any]) -> Array:
        """Return vectors ``[items, output_dim]`` of texts or paths of files, preprocessing included."""

    def time_steps(self, items: Sequence[Any]) -> dict[str, float]:
        """Return the seconds of each step of embedding ``items``, in order; empty if the steps cannot be timed."""


def usable(rows: Sequence[Row | UnusableItemError]) -> list[Row]:
    """Return ``rows`` if all items could be prepared.

    Raises:
        EmbeddingBackbonesError: An item could not be prepared.
    """
    bad = next((row for row in rows if isinstance(row, UnusableItemError)), None)
    if bad is not None:
        raise EmbeddingBackbonesError(f"cannot embed an item: {bad}")
    return [row for row in rows if not isinstance(row, UnusableItemError)]
