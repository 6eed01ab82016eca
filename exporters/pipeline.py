"""What every export goes through: torch's reference, the graph, the folder, the gate."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from exporters.artifact import (
    new_artifact,
    record_files,
    write_golden,
    write_graph,
    write_manifest,
    write_readme,
    writing,
)
from exporters.graph import build_graph
from exporters.parity import check_reference, measure_parity
from exporters.progress import Stage, silent
from exporters.spec import BackboneSpec, ExportOptions
from exporters.towers import ExportableTower
from runtime.describe import describe_manifest
from runtime.embedder import Embedder
from runtime.manifest import (
    SCHEMA_VERSION,
    Manifest,
    Provenance,
)
from runtime.providers import installed_packages
from runtime.version import __version__

_GOLDEN_ITEMS = 4
_PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "onnx", "onnxscript", "numpy", "pillow")


def export_tower(
    spec: BackboneSpec,
    tower: ExportableTower,
    destination: Path,
    *,
    options: ExportOptions,
    stage: Stage = silent,
) -> Path:
    """Exports a tower, of a backbone of the catalogue or of your own, if it passes the gate.

    Args:
        spec: What to call it; its ``output_dim`` and ``source`` are not used.
        tower: The loaded model: a ``CnnTower`` or ``TextTower``, or anything of that protocol.
        destination: The artifact's folder.
        options: ``opset``, ``tolerance`` and ``force``; the others are settled in ``tower``.
        stage: As for :func:`exporters.export`.

    Returns:
        ``destination``.

    Raises:
        ExportError: The tower cannot be traced, does not agree with torch, or cannot be written.
    """
    with new_artifact(destination, force=options.force) as folder:
        with stage("reference by torch"):
            reference = tower.reference()
            check_reference(reference)
        with stage("trace graph"):
            graph = build_graph(tower.module(), tower.inputs(), tower.record.output, opset=options.opset)
        with stage("write graph"), writing(destination):
            write_graph(folder / tower.record.graph, graph)
            tower.write_files(folder)
            write_golden(folder, tower.name, tower.items()[:_GOLDEN_ITEMS], reference[:_GOLDEN_ITEMS])
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            backbone=spec.name,
            task=spec.task,
            architecture=spec.architecture,
            output_dim=tower.output_dim,
            towers={tower.name: tower.record},
            weights=tower.weights,
            provenance=Provenance(opset=options.opset, ir_version=graph.ir_version, packages=dict(_versions())),
            files=record_files(folder),
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
