"""Describe an artifact as text, for the command lines and for the README in the artifact."""

from __future__ import annotations

from pathlib import Path

from runtime.artifact.manifest import (
    Manifest,
    Parity,
    PointCloudPreprocessing,
    Pooling,
    Preprocessing,
    SimilarityParity,
    TextPreprocessing,
    Tower,
)
from runtime.artifact.parity import format_cosine
from runtime.artifact.variants import Variant

_SIDES = {"short_side": "short side", "long_side": "long side", "squash": "both sides"}


def describe_manifest(manifest: Manifest) -> str:
    """Return a description of an artifact, one fact a line."""
    weights, provenance = manifest.weights, manifest.provenance
    packages = ", ".join(f"{name} {version}" for name, version in provenance.packages.items())
    lines = [
        f"name          {manifest.name}",
        f"backbone      {manifest.backbone} ({manifest.architecture}, {manifest.task})",
        f"weights       {' '.join(filter(None, (weights.description, weights.revision)))}",
        *(f"  WARNING     {warning}" for warning in weight_warnings(manifest)),
        f"  sha256      {weights.sha256}",
        f"  licence     {weights.licence or 'unknown'}",
        *(line for name, tower in manifest.towers.items() for line in _describe_tower(name, tower)),
        *([_describe_similarity(manifest.similarity)] if manifest.similarity else []),
        f"opset         {provenance.opset}",
        f"made with     {packages}",
        f"size          {sum(record.size_bytes for record in manifest.files.values()) / 1e6:.1f} MB",
    ]
    return "\n".join(lines)


def describe_export(folder: Path, manifest: Manifest) -> str:
    """Return a summary of a new artifact: its folder, its parity with torch, and warnings about its weights."""
    lines = [f"{folder}: {manifest.output_dim} dimensions, weights {manifest.weights.description}"]
    lines += [f"  {name} tower: {_describe_parity(tower.parity)}" for name, tower in manifest.towers.items()]
    lines += [f"  WARNING: {warning}" for warning in weight_warnings(manifest)]
    return "\n".join(lines)


def weight_warnings(manifest: Manifest) -> list[str]:
    """Return warnings if the weights are random or are not the published ones."""
    warnings = []
    if manifest.weights.origin == "random":
        stand_in = ", and the tokenizer is a stand-in" * ("text" in manifest.towers)
        warnings.append(f"the weights are random (seed {manifest.weights.seed}): the vectors mean nothing{stand_in}")
    if manifest.weights.published is False:
        warnings.append(f"the weights are not the published ones: {manifest.weights.file} has another hash")
    return warnings


def _describe_tower(name: str, tower: Tower) -> list[str]:
    projections = "".join(
        f", linear to {layer.out_features}" + f" and {layer.activation}" * (layer.activation != "identity")
        for layer in tower.projections
    )
    return [
        f"{name} tower",
        *(f"  input       {tensor.name} {tensor.dtype} {_shape(tensor.shape)}" for tensor in tower.inputs),
        f"  output      {tower.output.name} {tower.output.dtype} {_shape(tower.output.shape)}",
        f"  preprocess  {_describe_preprocessing(tower.preprocessing)}",
        f"  pooling     {_describe_pooling(tower.pooling)}{projections}{', L2-normalised' if tower.normalized else ''} "
        f"(decided by the {tower.decided_by})",
        f"  parity      {_describe_parity(tower.parity)}",
        *(f"  {name:<11} {_describe_variant(variant)}" for name, variant in tower.variants.items()),
    ]


def _describe_variant(variant: Variant) -> str:
    parity = variant.parity
    facts = [
        f"level {variant.level}" * (variant.level != "none"),
        f"for {', '.join(variant.providers)}" + f" with {', '.join(variant.cpu_features)}" * bool(variant.cpu_features),
        f"min cosine {format_cosine(parity.min_cosine)} to fp32, {parity.neighbour_overlap:.1%} of neighbours kept",
        f"{len(variant.float_nodes)} nodes in float32" * bool(variant.float_nodes),
        f"calibrated with {variant.calibration.items} {variant.calibration.source}" if variant.calibration else "",
        "vectors DEPEND ON THE BATCH" * (not variant.batch_invariant),
    ]
    return "; ".join(filter(None, facts))


def _describe_preprocessing(recipe: Preprocessing) -> str:
    if isinstance(recipe, PointCloudPreprocessing):
        return (
            f"{recipe.num_points} points of a mesh's surface (seed {recipe.seed}), centred, the farthest at distance 1"
        )
    if isinstance(recipe, TextPreprocessing):
        cleaning = "cleaned by ftfy, " * (recipe.cleaning == "ftfy")
        return f"{cleaning}{recipe.tokenizer}, at most {recipe.max_length} tokens"
    how = recipe.interpolation + " of floats" * (recipe.resize_dtype == "float32")
    how += " without antialias" * (not recipe.antialias)
    return (
        f"{_SIDES[recipe.resize]} to {recipe.resize_size} ({how}), centre crop {recipe.crop_size}, "
        f"(x / 255 - {list(recipe.mean)}) / {list(recipe.std)} by the {recipe.arithmetic}"
    )


def _describe_pooling(pooling: Pooling) -> str:
    return pooling.method if pooling.p is None else f"{pooling.method} (p {pooling.p}, eps {pooling.eps})"


def _describe_parity(parity: Parity | None) -> str:
    if parity is None:
        return "not measured"
    return (
        f"min cosine {format_cosine(parity.min_cosine)}, max abs error {parity.max_abs_error:.2g} to torch, "
        f"{parity.items} inputs at batch {', '.join(map(str, parity.batch_sizes))}"
    )


def _describe_similarity(similarity: SimilarityParity) -> str:
    return (
        f"similarity    max abs error {similarity.max_abs_error:.2g} to torch, for {similarity.texts} texts and "
        f"{similarity.images} images (torch's similarities span {similarity.spread:.2g})"
    )


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
