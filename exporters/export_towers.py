"""Export towers: compute torch's reference, trace the graph, write the folder, compare both."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from exporters.artifact_writer import new_artifact, record_files, write_golden, write_manifest, write_readme, writing
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import TraceError
from exporters.families.tower import ExportableTower
from exporters.graph.onnx_file import write_graph
from exporters.graph.trace import build_graph
from exporters.graph.used_weights import hash_used_weights
from exporters.parity import check_reference, measure_parity, measure_similarity
from exporters.progress import Stage, silent
from exporters.space import UNNAMED, describe_space
from runtime.array_types import Float32Array
from runtime.artifact.describe import describe_manifest
from runtime.artifact.manifest import GOLDEN_ITEMS, SCHEMA_VERSION, Manifest, Provenance, Task, Tower, TowerName
from runtime.artifact.parity import has_unit_length
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import Pipeline
from runtime.session.providers import installed_packages
from runtime.session.session import SessionOptions
from runtime.version import __version__

_TASKS: Mapping[frozenset[TowerName], Task] = {
    frozenset({"text"}): "text-to-text",
    frozenset({"image"}): "image-to-image",
    frozenset({"text", "image"}): "text-to-image",
    frozenset({"mesh"}): "mesh-to-mesh",
}
_PACKAGES = (
    *("torch", "torchvision", "transformers", "tokenizers", "sentence-transformers", "timm", "open_clip_torch"),
    *("onnx", "onnxscript", "numpy", "pillow"),
)


def export_towers(
    spec: BackboneSpec,
    towers: Sequence[ExportableTower],
    destination: Path,
    *,
    options: ExportOptions,
    stage: Stage = silent,
) -> Path:
    """Export the towers of a backbone, if their graphs agree with torch. The backbone may be outside the catalogue.

    Args:
        spec: Entry of the backbone; its ``output_dim`` and ``source`` are not used.
        towers: Towers of the loaded model, one for each kind of item.
        destination: Folder of the artifact. Its name is the name of the artifact.
        options: Options of the export; ``opset``, ``tolerance`` and ``force`` are used.
        stage: Called with the name of each stage, as by :func:`exporters.export`.

    Returns:
        ``destination``.

    Raises:
        ExportError: A tower cannot be traced, does not agree with torch, or cannot be written.
    """
    with new_artifact(destination, force=options.force) as folder:
        references: dict[TowerName, Float32Array] = {}
        for tower in towers:
            with stage(f"{tower.name} by torch"):
                references[tower.name] = tower.reference()
                check_reference(references[tower.name])
        records: dict[TowerName, Tower] = {}
        weights: dict[TowerName, str] = {}
        for tower in towers:
            with stage(f"{tower.name} graph"):
                record, weights[tower.name] = _write_tower(folder, tower, destination, options.opset)
                # The model may normalise by code that its files do not tell of.
                records[tower.name] = replace(record, normalized=has_unit_length(references[tower.name]))
        with writing(destination):
            few = slice(GOLDEN_ITEMS)
            write_golden(folder, {tower.name: (tower.items()[few], references[tower.name][few]) for tower in towers})
        manifest = _describe(folder, destination.name, spec, towers[0], records, options.opset)
        with stage("compare with torch"):
            pipeline = Pipeline(folder, manifest.towers, manifest.output_dim, SessionOptions(provider="cpu"))
            measured = _measure(Embedder(manifest, pipeline), towers, references, options)
            measured = replace(measured, space=describe_space(measured, folder, weights, references))
        with writing(destination):
            write_readme(folder, measured, describe_manifest(measured))
            write_manifest(folder, measured)
    return destination


def _write_tower(folder: Path, tower: ExportableTower, destination: Path, opset: int) -> tuple[Tower, str]:
    """Write the files of a tower. Return its record, and the hash of the weights that its graph uses."""
    graph = _trace(tower, opset)
    program = graph.meta.pop("program")
    weights = tower.weights.sha256 if tower.merged else hash_used_weights(program, tower.weights.origin)
    with writing(destination):
        external_data = write_graph(folder / tower.record.graph, graph)
        tower.write_files(folder)
    return replace(tower.record, external_data=external_data), weights


def _describe(
    folder: Path,
    name: str,
    spec: BackboneSpec,
    tower: ExportableTower,
    records: dict[TowerName, Tower],
    opset: int,
) -> Manifest:
    """Return the manifest of the artifact in ``folder``, without parity, its space unnamed; ``tower`` is any tower."""
    versions = {"embedding-backbones": __version__}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES} | installed_packages()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        backbone=spec.name,
        task=spec.task or _TASKS[frozenset(records)],
        architecture=spec.architecture or tower.architecture or "custom",
        output_dim=tower.output_dim,
        towers=records,
        similarity_function=tower.similarity_function,
        weights=tower.weights,
        space=UNNAMED,
        provenance=Provenance(opset=opset, packages=versions),
        files=record_files(folder),
    )


def _trace(tower: ExportableTower, opset: int) -> ir.Model:
    """Trace a tower; with plain attention if torch cannot trace its fused one."""
    inputs, output = tower.inputs(), tower.record.output
    try:
        return build_graph(tower.module(), inputs, output, opset=opset)
    except TraceError:
        module = tower.eager_module()
        if module is None:
            raise
        return build_graph(module, inputs, output, opset=opset)


def _measure(
    model: Embedder,
    towers: Sequence[ExportableTower],
    references: Mapping[TowerName, Float32Array],
    options: ExportOptions,
) -> Manifest:
    """Return the manifest with the measured parity of every tower, and of a text and an image tower together.

    Raises:
        ParityError: A measurement is out of bounds.
    """
    manifest, similarity = model.manifest, None
    measured: dict[TowerName, Tower] = {}
    vectors: dict[TowerName, Float32Array] = {}
    for tower in towers:
        name, tolerance = tower.name, options.tolerance
        parity, vectors[name] = measure_parity(model, name, tower.items(), references[name], tolerance)
        measured[name] = replace(manifest.towers[name], parity=parity)
    if measured.keys() == {"text", "image"}:
        similarity = measure_similarity(vectors, references, options.tolerance)
    return replace(manifest, towers=measured, similarity=similarity)
