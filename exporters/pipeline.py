"""What every export goes through: torch's reference, the graph, the folder, the gate."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from exporters.artifact import new_artifact, write_golden, write_graph, write_manifest, write_readme, writing
from exporters.graph import build_graph
from exporters.parity import measure_parity
from exporters.progress import Stage, silent
from exporters.spec import BackboneSpec, ExportOptions
from exporters.towers import ExportableTower
from exporters.towers.cnn import Cnn, CnnTower
from runtime.describe import describe_manifest
from runtime.embedder import Embedder
from runtime.manifest import (
    GOLDEN_FILE,
    SCHEMA_VERSION,
    Manifest,
    Provenance,
    Weights,
    record_file,
)
from runtime.providers import installed_packages
from runtime.version import __version__

_GOLDEN_ITEMS = 4
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow")


def export_cnn(
    spec: BackboneSpec, cnn: Cnn, destination: Path, *, options: ExportOptions, stage: Stage = silent
) -> Path:
    """Exports a convolutional network, of the catalogue or your own.

    Args:
        spec: What to call it; its ``output_dim`` is checked, its ``source`` is not used.
        cnn: The network, loaded.
        destination: The artifact's folder.
        options: Everything but ``weights`` and ``image_size``, which are settled in ``cnn``.
        stage: As for :func:`exporters.export`.

    Returns:
        ``destination``.

    Raises:
        ExportError: As :func:`exporters.export`.
    """
    tower = CnnTower(cnn, output_dim=spec.output_dim, options=options)
    return write_artifact(spec, tower, cnn.weights, destination, options=options, stage=stage)


def write_artifact(
    spec: BackboneSpec,
    tower: ExportableTower,
    weights: Weights,
    destination: Path,
    *,
    options: ExportOptions,
    stage: Stage,
) -> Path:
    """Writes the artifact of one tower, if it passes the gate.

    Raises:
        ExportError: The tower cannot be traced, does not agree with torch, or cannot be written.
    """
    with new_artifact(destination, force=options.force) as folder:
        with stage("reference by torch"):
            reference = tower.reference()
        with stage("trace graph"):
            graph = build_graph(tower.module(), tower.inputs(), tower.record.output, opset=options.opset)
        with stage("write graph"), writing(destination):
            write_graph(folder / tower.record.graph, graph)
            write_golden(folder, tower.name, tower.items()[:_GOLDEN_ITEMS], reference[:_GOLDEN_ITEMS])
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            backbone=spec.name,
            task=spec.task,
            architecture=spec.architecture,
            output_dim=spec.output_dim,
            towers={tower.name: tower.record},
            weights=weights,
            provenance=Provenance(opset=options.opset, ir_version=graph.ir_version, packages=dict(_versions())),
            files={name: record_file(folder / name) for name in (tower.record.graph, GOLDEN_FILE)},
        )
        with stage("compare with torch"):
            model = Embedder(folder, manifest, provider="cpu")
            parity = measure_parity(model, tower.items(), reference, options.tolerance)
        judged = replace(manifest, towers={tower.name: replace(tower.record, parity=parity)})
        with stage("write manifest"), writing(destination):
            write_readme(folder, judged, describe_manifest(judged))
            write_manifest(folder, judged)
    return destination


def _versions() -> Iterator[tuple[str, str]]:
    yield "embedding-backbones", __version__
    for name in _PACKAGES:
        yield name, importlib.metadata.version(name)
    yield from installed_packages().items()
