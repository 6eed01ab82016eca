"""Describe an artifact as a bill of materials: CycloneDX 1.6 with a model card, for tools that audit models.

Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.artifact.describe import weight_warnings
from runtime.artifact.manifest import Manifest, Tower
from runtime.artifact.reader import check_files, read_manifest
from runtime.version import __version__

_SPDX = ("Apache-2.0", "BSD-3-Clause", "MIT")  # names of licences that CycloneDX knows as identifiers
_TOOL = "embedding-backbones"
_PARITY = ("min_cosine", "max_abs_error", "max_batch_error", "items")
_VARIANT_PARITY = ("min_cosine", "mean_cosine", "neighbour_overlap", "batch_cosine", "items")


def make_bom(folder: Path) -> dict[str, Any]:
    """Return the bill of materials of an artifact. The same artifact gives the same document.

    Raises:
        ArtifactError: The artifact is damaged.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    tools = {_TOOL: __version__} | manifest.provenance.packages
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, manifest.sha256).urn,
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "library", "bom-ref": f"tool:{name}", "name": name, "version": version}
                    for name, version in sorted(tools.items())
                ]
            },
            "component": _describe_model(manifest),
        },
    }


def _describe_model(manifest: Manifest) -> dict[str, Any]:
    weights = manifest.weights
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": manifest.sha256,
        "name": manifest.name,
        "version": manifest.sha256,
        "description": f"{manifest.backbone}, {manifest.task}, {manifest.output_dim} dimensions",
        "hashes": [{"alg": "SHA-256", "content": manifest.sha256}],
        "pedigree": {"ancestors": [_describe_checkpoint(manifest)]},
        "components": [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": record.sha256}]}
            for name, record in sorted(manifest.files.items())
        ],
        "modelCard": {
            "modelParameters": {
                "task": manifest.task,
                "architectureFamily": manifest.architecture,
                "modelArchitecture": manifest.backbone,
                "inputs": [{"format": kind} for kind in manifest.towers],
                "outputs": [{"format": f"float32 [{manifest.output_dim}]"}],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    metric for name, tower in manifest.towers.items() for metric in _list_metrics(name, tower)
                ]
            },
            "properties": [{"name": name, "value": value} for name, value in _list_properties(manifest)],
        },
    }
    if warnings := weight_warnings(manifest):
        model["modelCard"]["considerations"] = {"technicalLimitations": warnings}
    if weights.licence:
        kind = "id" if weights.licence in _SPDX else "name"
        model["licenses"] = [{"license": {kind: weights.licence}}]
    return model


def _describe_checkpoint(manifest: Manifest) -> dict[str, Any]:
    weights = manifest.weights
    return {
        "type": "machine-learning-model",
        "name": weights.description,
        **({"version": weights.revision} if weights.revision else {}),
        "hashes": [{"alg": "SHA-256", "content": weights.sha256}],
    }


def _list_metrics(name: str, tower: Tower) -> Iterator[dict[str, str]]:
    """Yield the measured figures of a tower and of its variants."""
    measured: list[tuple[str, Any, tuple[str, ...]]] = [(f"fp32 to {tower.reference}", tower.parity, _PARITY)]
    measured += [(f"{each} to fp32", variant.parity, _VARIANT_PARITY) for each, variant in tower.variants.items()]
    for graphs, parity, fields in measured:
        for field in fields if parity is not None else ():
            yield {"type": field, "value": str(getattr(parity, field)), "slice": f"{name}: {graphs}"}


def _list_properties(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "embedding-backbones:vector_space", manifest.space.id
    yield "embedding-backbones:opset", str(manifest.provenance.opset)
    for name, tower in manifest.towers.items():
        yield f"embedding-backbones:{name}:pooling", tower.pooling.method
        yield f"embedding-backbones:{name}:normalized", str(tower.normalized).lower()
