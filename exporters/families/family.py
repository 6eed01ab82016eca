"""The record that makes a model family known to the exporters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from exporters.catalogue.options import ExportOptions

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
class Family:
    """A family of models.

    Attributes:
        module: Module that is imported when a model is loaded. ``load(request, weights)`` returns the towers of a
            backbone; ``load_run(request, models)`` returns those of a Finetuner run, one for each of its models.
        sources: Types of ``BackboneSpec.source`` that belong to the family.
        options: Export options that the family takes and some other family does not.
        unpublished: Error message for pretrained weights; empty if the family has pretrained weights.
    """

    module: str
    sources: tuple[type, ...]
    options: frozenset[str] = frozenset()
    unpublished: str = ""
