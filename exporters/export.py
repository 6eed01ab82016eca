"""Export a model to an artifact. Importing this module does not import torch."""

from __future__ import annotations

import os
from pathlib import Path

from exporters.artifact_writer import check_destination
from exporters.catalogue.names import default_name, find_model
from exporters.catalogue.options import ExportOptions
from exporters.families.load import check_options, load_towers
from exporters.progress import Stage, silent
from runtime.errors import UsageError, needs_extra
from runtime.session.providers import check_packages


def export(
    name: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] = "artifacts",
    artifact_name: str | None = None,
    options: ExportOptions | None = None,
    stage: Stage = silent,
) -> Path:
    """Export a backbone of the catalogue, or any encoder that its library loads.

    Args:
        name: Name of the model: of the catalogue, such as ``resnet-base``; the folder of a model; its hub id, such as
            ``intfloat/e5-small-v2``; or ``timm:NAME``, ``torchvision:NAME``, ``open_clip:MODEL[/TAG]``.
        output: Folder in which the artifact's folder is made.
        artifact_name: Name of the artifact and its folder; by default the model's name without library and
            organisation.
        options: Options of the export; by default pretrained weights, the backbone's own pooling, and uint8 input.
        stage: Called with the name of each stage; the stage runs in the context manager that it returns.

    Returns:
        The artifact's folder.

    Raises:
        ExportError: The model does not exist, its weights cannot be used, the graph does not agree with torch, or
            the artifact cannot be written.
        UsageError: The backbone does not take one of the options.
        MissingDependencyError: torch or onnxruntime is not installed.
        ProviderError: Two onnxruntime packages are installed.
    """
    options = options or ExportOptions()
    spec = find_model(name, revision=options.revision)
    if artifact_name is not None and (not artifact_name or Path(artifact_name).name != artifact_name):
        raise UsageError(f"an artifact cannot have the name {artifact_name!r}; --name takes the name of a folder")
    check_options(spec, options)
    destination = Path(output) / (artifact_name or default_name(spec))
    check_destination(destination, force=options.force)
    check_packages()
    with stage("import torch"), needs_extra("export,cpu", "exporting"):
        from exporters.export_towers import export_towers
    with stage("load weights"), needs_extra("export,cpu", "exporting"):
        towers = load_towers(spec, options)
    return export_towers(spec, towers, destination, options=options, stage=stage)
