"""Define the interface of contenders: their target, their setup, and their operations once loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.results.schema import Precision, Stage
from runtime.array_types import Array, Feeds
from runtime.artifact.manifest import Manifest, TowerName
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.tower import Row
from runtime.preprocess.item import UnusableItemError
from runtime.session.providers import find_provider


@dataclass(frozen=True, kw_only=True)
class Target:
    """Tower of an artifact that is benchmarked."""

    folder: Path
    manifest: Manifest
    tower: TowerName
    weights: str | None  # value of `--weights` at export; `None` if it is unknown.
    # execution providers that are active in this environment or in one of `pythons`.
    providers: tuple[str, ...] = ("cpu",)
    # interpreters of other environments, by contender or provider: `openvino`, `optimum`.
    pythons: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.manifest.name}, {self.tower}"

    def admits(self, setup: Setup) -> bool:
        """Tell whether ``setup`` runs on a kind of device that one of the providers has."""
        return find_provider(setup.provider).device in {find_provider(name).device for name in self.providers}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Contender with its settings: all that a worker process needs to load it."""

    contender: str  # key of `registry.CONTENDERS`.
    variant: str  # variant of the graph, or mode of torch.
    provider: str = "cpu"  # execution provider of onnxruntime, or device of torch.
    precision: Precision = "fp32"  # data type of most of the arithmetic.
    stages: tuple[Stage, ...]  # stages that can be measured.
    model: str  # model to load: a folder, or a JSON record for torch.
    tower: TowerName
    python: str = sys.executable  # interpreter of the contender's environment.
    max_length: int | None = None  # tokens of the longest text, for a library that prepares texts itself.
    exports: bool = False  # whether the first start exports a model that later starts reuse. That start is not timed.

    def __str__(self) -> str:
        return f"{self.contender} {self.variant} on {self.provider}"


class Contender(Protocol):
    """Loaded model. It runs with the number of threads that it was loaded with."""

    def embed_arrays(self, arrays: Feeds) -> Array:
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
