"""The record that makes a model family known to the exporters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from exporters.catalogue.options import ExportOptions
from runtime.artifact.manifest import Weights

SourceT = TypeVar("SourceT")


@dataclass(frozen=True, kw_only=True)
class LoadRequest(Generic[SourceT]):
    """A backbone to load.

    Attributes:
        source: Where the backbone comes from.
        output_dim: Length of its embeddings, by the catalogue.
        options: Options of the export.
    """

    source: SourceT
    output_dim: int
    options: ExportOptions


@dataclass(frozen=True, kw_only=True)
class FolderRequest:
    """A model folder to load: the user's own, or a snapshot of a model on the hub.

    Attributes:
        path: The folder.
        weights: Origin of the weights in it.
        options: Options of the export. With ``RandomInit`` weights, the folder gives only the configuration.
        model_id: Name on the hub; ``None`` for a folder of the user.
    """

    path: Path
    weights: Weights
    options: ExportOptions
    model_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        module: Module that is imported when a model is loaded. ``load(request, weights)`` returns the towers of a
            backbone; ``load_run(request, models)`` returns those of a Finetuner run, one for each of its models.
        sources: Types of ``BackboneSpec.source`` that belong to the family; none for families of folders, whose
            modules have ``load_folder(request)`` instead.
        options: Export options that the family takes and some other family does not.
    """

    module: str
    sources: tuple[type, ...] = ()
    options: frozenset[str] = frozenset()
