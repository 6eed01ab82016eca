"""The functions that Finetuner's users know: write ``import exporters.finetuner as finetuner``, and go on.

What they return needs no torch any more; where there is none, ``runtime.finetuner`` has ``get_model``, ``encode`` and
``cos_sim`` for the artifacts that are made here.

Source of the signatures: https://finetuner.jina.ai, version 0.8.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from exporters.catalogue.registry import find_backbone, find_descriptor
from exporters.catalogue.spec import ExportOptions, random_seed
from exporters.catalogue.tables import describe_models
from exporters.errors import DestinationError, UnknownBackboneError, WeightsUnavailableError
from exporters.export import export
from runtime import finetuner
from runtime.artifact.manifest import MANIFEST_FILE, Weights
from runtime.artifact.reader import read_manifest
from runtime.finetuner import SelectModel, choose_tower, cos_sim, encode
from runtime.inference.embedder import Embedder

__all__ = ["build_model", "cos_sim", "describe_models", "encode", "get_model"]


def build_model(
    name: str,
    select_model: SelectModel | None = None,
    device: str | None = None,
    *,
    output: str | os.PathLike[str] = "artifacts",
    options: ExportOptions | None = None,
) -> Embedder:
    """Returns a backbone of the catalogue, not fine-tuned: exported on the first call, loaded on every one.

    Args:
        name: Its name, such as ``resnet-base``.
        select_model: The half of a CLIP; by default both, which Finetuner could not.
        device: ``cpu`` or ``cuda``; by default the fastest that works.
        output: The folder in which the artifact is kept.
        options: As for :func:`exporters.export`, with pretrained (the default) or random weights. Those of the first
            call count.

    Raises:
        EmbeddingBackbonesError: Whatever :func:`exporters.export` and :func:`runtime.load` raise.
        DestinationError: There is an artifact already, with other weights.
    """
    options = options or ExportOptions()
    options = replace(options, tower=choose_tower(select_model) or options.tower)
    folder = Path(output) / (name if select_model is None else f"{name}-{select_model}")
    if not (folder / MANIFEST_FILE).exists():
        find_backbone(name)
        export(name, output=output, artifact_name=folder.name, options=options)
    elif not _has_weights(read_manifest(folder).weights, options.weights):
        raise DestinationError(f"{folder} was exported with other weights; delete it, or name another place by output")
    return finetuner.get_model(folder, device=device)


def get_model(
    artifact: str | os.PathLike[str],
    batch_size: int = 32,
    select_model: SelectModel | None = None,
    device: str | None = None,
    *,
    output: str | os.PathLike[str] = "artifacts",
    options: ExportOptions | None = None,
) -> Embedder:
    """Loads an exported artifact, or the artifact of a Finetuner run, which is exported first.

    Args:
        artifact: The folder of an exported artifact, or the folder or zip of a run.
        batch_size: Of no effect, as in Finetuner: :func:`encode` has its own.
        select_model: The half of a CLIP.
        device: ``cpu`` or ``cuda``; by default the fastest that works.
        output: The folder in which the exported run is kept, under the run's name.
        options: As for :func:`exporters.export`; ``weights`` and ``select_model`` are not used. Those of the first
            call count.

    Raises:
        EmbeddingBackbonesError: Whatever :func:`exporters.export` and :func:`runtime.load` raise.
        UnknownBackboneError: The run does not tell which backbone it was fine-tuned from.
        DestinationError: There is an artifact of that name already, of another run.
    """
    if (Path(artifact) / MANIFEST_FILE).exists():
        return finetuner.get_model(artifact, batch_size, select_model, device)
    from exporters.weights.finetuner_run import combine_records, read_run

    if not os.path.lexists(artifact):
        raise WeightsUnavailableError(f"there is no {artifact}; give an artifact's folder, or a run's folder or zip")
    models = read_run(Path(artifact), select_model)
    backbone = find_descriptor(models[0].descriptor) or find_descriptor(models[0].name)
    if backbone is None:
        raise UnknownBackboneError(
            f"{artifact} was fine-tuned from {models[0].descriptor}, which is not in the catalogue; export it with "
            f"`python -m exporters NAME --weights {artifact}`"
        )
    folder = Path(output) / "-".join(
        [Path(artifact).name.removesuffix(".zip"), *([select_model] if select_model else [])]
    )
    if not (folder / MANIFEST_FILE).exists():
        chosen = replace(options or ExportOptions(), weights=os.fspath(artifact), select_model=select_model)
        export(backbone.name, output=output, artifact_name=folder.name, options=chosen)
    elif read_manifest(folder).weights.sha256 != combine_records(models).sha256:
        raise DestinationError(f"{folder} was exported from another run; delete it, or name another place by output")
    return finetuner.get_model(folder, device=device)


def _has_weights(record: Weights, weights: str) -> bool:
    if weights == "pretrained":
        return record.origin == "pretrained"
    return record.origin == "random" and record.seed == random_seed(weights)
