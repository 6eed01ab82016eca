"""What every contender has in common: how it is found, and what it can be asked to do once it is loaded."""

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
class Subject:
    """What is embedded with.

    Attributes:
        folder: The artifact.
        manifest: What it says of itself.
        tower: Which of its graphs.
        weights: What its export was given as ``--weights``; ``None`` where that is not known here.
        providers: Execution providers that are active here, or in an environment of ``pythons``.
        pythons: Interpreters of other environments, by what they are for: ``openvino``, ``optimum``.
    """

    folder: Path
    manifest: Manifest
    tower: TowerName
    weights: str | None
    providers: tuple[str, ...] = ("cpu",)
    pythons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to embed: all that a process of its own has to be told.

    Attributes:
        contender: Who: a key of :data:`benchmarks.contenders.registry.CONTENDERS`.
        variant: How: the graph's variant, or torch's way to run.
        provider: Execution provider of onnxruntime, or device of torch.
        precision: Of the arithmetic that most of the work is done in.
        stages: What it can be measured at.
        model: What it loads: a folder, or ``BACKBONE=WEIGHTS`` for torch.
        tower: Which tower of it.
        python: The interpreter of its environment.
        exports: Whether it makes a model of its own first, which later starts find: no part of a start's time.
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


class Contender(Protocol):
    """A model, loaded in one way. It runs with as many threads as it was loaded for."""

    def embed_arrays(self, arrays: Mapping[str, Array]) -> Array:
        """Returns vectors ``[batch, output_dim]`` of what :meth:`runtime.inference.tower.LoadedTower.collate` gave."""

    def embed_items(self, items: Sequence[Any]) -> Array:
        """Returns vectors ``[items, output_dim]`` of texts, or of paths of files, preparation included."""

    def take_apart(self, items: Sequence[Any]) -> dict[str, float]:
        """Returns the seconds of each step of embedding ``items``, one after another; empty if it cannot tell."""


def usable(rows: Sequence[Row | UnusableItemError]) -> list[Row]:
    """Returns the rows of items that were prepared.

    Raises:
        EmbeddingBackbonesError: An item has none.
    """
    bad = next((row for row in rows if isinstance(row, UnusableItemError)), None)
    if bad is not None:
        raise EmbeddingBackbonesError(f"an item cannot be embedded: {bad}")
    return [row for row in rows if not isinstance(row, UnusableItemError)]
