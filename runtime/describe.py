"""Artifacts and measurements in words, for the command lines and for the README in an artifact."""

from __future__ import annotations

from pathlib import Path

from runtime.agreement import near_one
from runtime.manifest import Manifest, Parity, Preprocessing, TextPreprocessing, Tower


def describe_manifest(manifest: Manifest) -> str:
    """Returns what a person wants to know of an artifact, a fact a line."""
    weights, provenance = manifest.weights, manifest.provenance
    packages = ", ".join(f"{name} {version}" for name, version in provenance.packages.items())
    lines = [
        f"backbone      {manifest.backbone} ({manifest.architecture}, {manifest.task})",
        f"weights       {' '.join(filter(None, (weights.description, weights.revision)))}",
        f"  sha256      {weights.sha256}",
        f"  licence     {weights.licence or 'not known'}",
        *(line for name, tower in manifest.towers.items() for line in _describe_tower(name, tower)),
        f"graph         opset {provenance.opset}, IR {provenance.ir_version}",
        f"made with     {packages}",
        f"size          {sum(record.size_bytes for record in manifest.files.values()) / 1e6:.1f} MB",
    ]
    return "\n".join(lines)


def describe_export(folder: Path, manifest: Manifest) -> str:
    """Returns what to tell of a new artifact: where it is, how near to torch, and what its weights are not."""
    lines = [f"{folder}: {manifest.output_dim} dimensions, weights {manifest.weights.description}"]
    lines += [f"  {name} tower: {_describe_parity(tower.parity)}" for name, tower in manifest.towers.items()]
    if manifest.weights.origin == "random":
        lines.append("  WARNING: the weights are random; the vectors mean nothing, and only serve to test and to time")
    if manifest.weights.published is False:
        lines.append(
            "  WARNING: the weights in the cache are not the published ones; if they are not yours, delete them"
        )
    return "\n".join(lines)


def _describe_tower(name: str, tower: Tower) -> list[str]:
    projections = "".join(f", linear to {layer.out_features} and {layer.activation}" for layer in tower.projections)
    return [
        f"{name} tower",
        *(f"  input       {tensor.name} {tensor.dtype} {_shape(tensor.shape)}" for tensor in tower.inputs),
        f"  output      {tower.output.name} {tower.output.dtype} {_shape(tower.output.shape)}",
        f"  preprocess  {_describe_preprocessing(tower.preprocessing)}",
        f"  pooling     {tower.pooling.method}{projections}{', L2-normalised' if tower.normalized else ''} "
        f"(decided by the {tower.decided_by})",
        f"  parity      {_describe_parity(tower.parity)}",
    ]


def _describe_preprocessing(recipe: Preprocessing) -> str:
    if isinstance(recipe, TextPreprocessing):
        return f"{recipe.tokenizer}, at most {recipe.max_length} tokens"
    return (
        f"short side to {recipe.resize_size} ({recipe.interpolation}), centre crop {recipe.crop_size}, "
        f"(x / 255 - mean) / std by the {recipe.arithmetic}"
    )


def _describe_parity(parity: Parity | None) -> str:
    if parity is None:
        return "not measured"
    return (
        f"min cosine {near_one(parity.min_cosine)}, max abs error {parity.max_abs_error:.2g} to torch, "
        f"{parity.items} inputs at batch {', '.join(map(str, parity.batch_sizes))}"
    )


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
