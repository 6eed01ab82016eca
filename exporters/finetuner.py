"""Finetuner's functions for existing code: replace ``import finetuner`` by ``import exporters.finetuner as finetuner``.

The models that they return do not need torch. In an environment without torch, ``runtime.finetuner`` has
``get_model``, ``encode`` and ``cos_sim`` for exported artifacts.

Source of the signatures: https://finetuner.jina.ai, version 0.8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import find_backbone, find_descriptor
from exporters.catalogue.tables import describe_models
from exporters.catalogue.weights_ref import Pretrained, RandomInit, WeightsRef
from exporters.errors import DestinationError, UnknownBackboneError, WeightsUnavailableError
from exporters.export import export
from exporters.fit.dataset import DataSource
from exporters.fit.options import FitOptions
from exporters.fit.run import Fit
from exporters.fit.run import fit as _fit
from runtime import finetuner
from runtime.artifact.manifest import MANIFEST_FILE, Weights
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError
from runtime.finetuner import SelectModel, choose_tower, cos_sim, encode
from runtime.inference.embedder import Embedder

__all__ = ["build_model", "cos_sim", "describe_models", "encode", "fit", "get_model"]

_EPOCHS = 5  # as in Finetuner; FitOptions has another default
# Finetuner's names of losses, which were those of pytorch-metric-learning.
_LOSSES = {"TripletMarginLoss": "triplet-hard", "CosineSimilarityLoss": "cosine", "CLIPLoss": "clip"}


def fit(
    model: str,
    train_data: DataSource,
    eval_data: DataSource | None = None,
    val_split: float = 0.0,
    model_artifact: str | os.PathLike[str] | None = None,
    run_name: str | None = None,
    loss: str | None = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    freeze: bool = False,
    output_dim: int | None = None,
    device: str | None = None,
    *,
    output: str | os.PathLike[str] = "artifacts",
    options: FitOptions | None = None,
    export_options: ExportOptions | None = None,
) -> Fit:
    """Fine-tune a model on this machine, and export it. The result is a path that :func:`get_model` takes.

    Args:
        model: Name of the model, as for :func:`exporters.export`.
        train_data: A CSV, JSONL or parquet file, a folder of classes, or rows; see :func:`exporters.fit.run.fit`.
        eval_data: Evaluation data.
        val_split: Share of the training data to hold out instead of ``eval_data``.
        model_artifact: Weights to start from, such as a Finetuner run; by default the pretrained ones.
        run_name: Name of the artifact.
        loss: Name of the loss, ours or Finetuner's ``TripletMarginLoss``, ``CosineSimilarityLoss`` or ``CLIPLoss``; by
            default the usual one of the data.
        learning_rate: Highest learning rate; by default the usual one of the model.
        epochs: Number of passes over the training data; by default those of ``options``, or 5 without ``options``.
        batch_size: Items in a step.
        freeze: Whether to train only the layers after the pooling.
        output_dim: Length of the embeddings of a new linear layer at the end.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
        output: Folder in which the artifact's folder is made.
        options: Further options, without the other arguments of this function.
        export_options: Options of the export.

    Raises:
        UsageError: An option is given twice.
        EmbeddingBackbonesError: As for :func:`exporters.fit.run.fit`.
    """
    if epochs is None:
        epochs = _EPOCHS if options is None else options.epochs
    options = options or FitOptions()
    given = {
        "val_split": val_split,
        "loss": _LOSSES.get(loss or "", loss),
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
        "freeze": freeze,
        "output_dim": output_dim,
        "device": device,
    }
    return _fit(
        model,
        train_data,
        eval_data,
        output=output,
        artifact_name=run_name,
        options=_merge(options, given),
        export_options=_start_from(model_artifact, export_options or ExportOptions()),
    )


def _merge(options: FitOptions, given: Mapping[str, Any]) -> FitOptions:
    for field in fields(options):
        if field.name in given and getattr(options, field.name) not in (field.default, given[field.name]):
            raise UsageError(f"{field.name} is an argument of fit; give it there, and not in options")
    return replace(options, **given)


def _start_from(weights: str | os.PathLike[str] | None, options: ExportOptions) -> ExportOptions:
    if weights is None:
        return options
    if options.weights != "pretrained":
        raise UsageError("give weights by model_artifact or by export_options, not by both")
    return replace(options, weights=os.fspath(weights))


def build_model(
    name: str,
    select_model: SelectModel | None = None,
    device: str | None = None,
    *,
    output: str | os.PathLike[str] = "artifacts",
    options: ExportOptions | None = None,
) -> Embedder:
    """Return a backbone of the catalogue that is not fine-tuned. The first call exports it.

    Args:
        name: Name of the backbone, such as ``resnet-base``.
        select_model: Tower of a CLIP; by default both towers, which Finetuner could not return.
        device: ``cpu`` or ``cuda``; by default the fastest that works.
        output: Folder in which the artifact is kept.
        options: Options of :func:`exporters.export`, with pretrained (the default) or random weights. Later calls only
            compare the weights.

    Raises:
        EmbeddingBackbonesError: :func:`exporters.export` or :func:`runtime.load` fails.
        DestinationError: The artifact exists and has other weights.
    """
    options = options or ExportOptions()
    options = replace(options, tower=choose_tower(select_model) or options.tower)
    folder = _choose_folder(output, name, select_model)
    if not (folder / MANIFEST_FILE).exists():
        find_backbone(name)
        export(name, output=output, artifact_name=folder.name, options=options)
    elif not _has_weights(read_manifest(folder).weights, options.weights_ref):
        raise DestinationError(f"{folder} was exported with other weights; delete it, or give another folder by output")
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
    """Load an exported artifact, or export a Finetuner run and load its artifact.

    Args:
        artifact: Folder of an exported artifact, or folder or zip of a run.
        batch_size: Has no effect, as in Finetuner: :func:`encode` has its own.
        select_model: Tower of a CLIP.
        device: ``cpu`` or ``cuda``; by default the fastest that works.
        output: Folder in which the exported run is kept, under the run's name.
        options: Options of :func:`exporters.export` for the first call, without ``weights`` and ``select_model``.

    Raises:
        UsageError: ``options`` has one of these two.
        EmbeddingBackbonesError: :func:`exporters.export` or :func:`runtime.load` fails.
        UnknownBackboneError: The catalogue does not have the backbone that the run was fine-tuned from.
        DestinationError: The artifact exists and comes from another run.
    """
    options = options or ExportOptions()
    if options.weights != "pretrained" or options.select_model:
        raise UsageError("get_model has arguments for the weights and for select_model; leave both out of options")
    if (Path(artifact) / MANIFEST_FILE).exists():
        return finetuner.get_model(artifact, batch_size, select_model, device)
    from exporters.weights.finetuner_run import combine_records, read_run

    if not os.path.lexists(artifact):
        raise WeightsUnavailableError(
            f"there is no {artifact}; give the folder of an artifact, or the folder or zip of a run"
        )
    models = read_run(Path(artifact), select_model)
    backbone = find_descriptor(models[0].descriptor) or find_descriptor(models[0].name)
    if backbone is None:
        raise UnknownBackboneError(
            f"{artifact} was fine-tuned from {models[0].descriptor}, which is not in the catalogue; export it with "
            f"`python -m exporters NAME --weights {artifact}`"
        )
    folder = _choose_folder(output, Path(artifact).name.removesuffix(".zip"), select_model)
    if not (folder / MANIFEST_FILE).exists():
        chosen = replace(options, weights=os.fspath(artifact), select_model=select_model)
        export(backbone.name, output=output, artifact_name=folder.name, options=chosen)
    elif read_manifest(folder).weights.sha256 != combine_records(models).sha256:
        raise DestinationError(f"{folder} was exported from another run; delete it, or give another folder by output")
    return finetuner.get_model(folder, device=device)


def _choose_folder(output: str | os.PathLike[str], name: str, select_model: SelectModel | None) -> Path:
    return Path(output) / (name if select_model is None else f"{name}-{select_model}")


def _has_weights(record: Weights, weights: WeightsRef) -> bool:
    if isinstance(weights, RandomInit):
        return record.origin == "random" and record.seed == weights.seed
    return isinstance(weights, Pretrained) and record.origin == "pretrained"
