"""export(): from a name to an artifact. Imports torch only when it is called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporters.catalogue.registry import find_backbone
from exporters.catalogue.spec import BackboneSpec, ExportOptions, PointNetSource, check_options, random_seed
from exporters.errors import WeightsUnavailableError
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
    """Exports a backbone of the catalogue.

    Args:
        name: Its name, such as ``resnet-base``.
        output: The folder in which the artifact's folder is made.
        artifact_name: What to call the artifact, its folder included; by default ``name``.
        options: What to choose; by default pretrained weights, average pooling, uint8 input.
        stage: Called with each stage's name; the stage runs within what it returns.

    Returns:
        The artifact's folder.

    Raises:
        ExportError: There is no such backbone, its weights cannot be used, the graph does not agree with torch, or
            the artifact cannot be written.
        UsageError: An option is not for this backbone.
        MissingDependencyError: torch or onnxruntime is not installed.
        ProviderError: Two onnxruntime packages are installed.
    """
    from exporters.artifact_writer import check_destination

    spec = find_backbone(name)
    options = options or ExportOptions()
    if artifact_name is not None and (not artifact_name or Path(artifact_name).name != artifact_name):
        raise UsageError(f"an artifact cannot be called {artifact_name!r}; --name is the name of a folder")
    check_options(spec, options)
    destination = Path(output) / (artifact_name or spec.name)
    check_destination(destination, force=options.force)
    _check_weights(spec, options.weights)
    check_packages()
    with stage("import torch"), _named_dependencies():
        from exporters.export_towers import export_towers
        from exporters.families.load import load_towers
    with stage("load weights"):
        towers = load_towers(spec, options, any_family=artifact_name is not None)
    return export_towers(spec, towers, destination, options=options, stage=stage)


def _check_weights(spec: BackboneSpec, weights: str) -> None:
    """Finds out before torch is imported whether there are such weights."""
    if weights == "pretrained" and isinstance(spec.source, PointNetSource):
        raise WeightsUnavailableError(
            "there are no pretrained weights of PointNet++ any more: the service that held them is gone; take "
            "--weights PATH with the artifact of your own Finetuner run or a state dict, or --weights random"
        )
    if weights != "pretrained" and random_seed(weights) is None and not os.path.lexists(weights):
        raise WeightsUnavailableError(
            f"there is no {weights}; --weights takes `pretrained`, `random[:SEED]`, or the path of a checkpoint"
        )


@contextmanager
def _named_dependencies() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            f"exporting needs {exc.name}; install it with `pip install 'embedding-backbones[export,cpu]'`"
        ) from exc
