"""The record that makes a model family known to the exporters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.weights_ref import ModelWeights

if TYPE_CHECKING:
    from exporters.families.tower import ExportableTower
    from exporters.weights.finetuner_run import RunModel

SourceT = TypeVar("SourceT")


@dataclass(frozen=True, kw_only=True)
class LoadRequest(Generic[SourceT]):
    """A backbone to load.

    Attributes:
        source: Where the backbone comes from.
        output_dim: Length of its embeddings, by the catalogue.
        options: Options of the export.
        any_architecture: Whether a text model's folder may hold another architecture than ``source``.
    """

    source: SourceT
    output_dim: int
    options: ExportOptions
    any_architecture: bool = False


@dataclass(frozen=True, kw_only=True)
class Family(Generic[SourceT]):
    """A family of models. Its functions import the family's libraries when they are called.

    Attributes:
        sources: Types of ``BackboneSpec.source`` that belong to the family.
        options: Export options that the family takes and some other family does not.
        unpublished: Error message for pretrained weights; empty if the family has pretrained weights.
        load: Loads a backbone with the given weights, and returns its towers.
        load_run: Returns the towers of a Finetuner run, one for each of its models.
    """

    sources: tuple[type[SourceT], ...]
    options: frozenset[str] = frozenset()
    unpublished: str = ""
    load: Callable[[LoadRequest[SourceT], ModelWeights], list[ExportableTower]]
    load_run: Callable[[LoadRequest[SourceT], Sequence[RunModel]], list[ExportableTower]]
