"""Export a backbone of the catalogue to an artifact. Importing this module does not import torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporters.artifact_writer import check_destination
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import find_backbone
from exporters.families.load import check_options, check_weights, load_towers
from exporters.progress import Stage, silent
from runtime.errors import MissingDependencyError, UsageError
from runtime.session.providers import check_packages


def export(
    name: str,
    *,
    output: str | os.PathLike[str] = "artifacts",
    artifact_name: str | None = None,
    options: ExportOptions | None = None,
    stage: Stage = silent,
) -> Path:
    """Export a backbone of the catalogue.

    Args:
        name: Name of the backbone, such as ``resnet-base``.
        output: Folder in which the artifact's folder is made.
        artifact_name: Name of the artifact and its folder; by default ``name``.
        options: Options of the export; by default pretrained weights, the backbone's own pooling, and uint8 input.
        stage: Called with the name of each stage; the stage runs in the context manager that it returns.

    Returns:
        The artifact's folder.

    Raises:
        ExportError: The backbone does not exist, its weights cannot be used, the graph does not agree with torch, or
            the artifact cannot be written.
        UsageError: The backbone does not take one of the options.
        MissingDependencyError: torch or onnxruntime is not installed.
        ProviderError: Two onnxruntime packages are installed.
    """
    spec = find_backbone(name)
    options = options or ExportOptions()
    if artifact_name is not None and (not artifact_name or Path(artifact_name).name != artifact_name):
        raise UsageError(f"an artifact cannot have the name {artifact_name!r}; --name takes the name of a folder")
    check_options(spec, options)
    destination = Path(output) / (artifact_name or spec.name)
    check_destination(destination, force=options.force)
    check_weights(spec, options)
    check_packages()
    with stage("import torch"), _named_dependencies():
        from exporters.export_towers import export_towers
    with stage("load weights"), _named_dependencies():
        towers = load_towers(spec, options, any_architecture=artifact_name is not None)
    return export_towers(spec, towers, destination, options=options, stage=stage)


@contextmanager
def _named_dependencies() -> Iterator[None]:
    """Report a missing package with the command that installs it.

    Raises:
        MissingDependencyError: A package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            f"exporting needs {exc.name}; install it with `pip install 'embedding-backbones[export,cpu]'`"
        ) from exc
