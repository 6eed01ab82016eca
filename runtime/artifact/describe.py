"""Describe an artifact as text, for the command lines and for the README in the artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime.artifact.manifest import (
    Cleaning,
    Manifest,
    PointCloudPreprocessing,
    Pooling,
    Preprocessing,
    TextPreprocessing,
    Tower,
)
from runtime.artifact.parity import SimilarityParity, format_cosine
from runtime.artifact.space import space_of
from runtime.artifact.variants import Variant
from runtime.console import printable_line

_CLEANINGS: Mapping[Cleaning, str] = {
    "none": "",
    "ftfy": "cleaned by ftfy, ",
    "ftfy_canonicalize": "cleaned by ftfy, lower case without punctuation, ",
}
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
        f"space         {_describe_spaces(manifest)}",
        f"compare by    {manifest.similarity_function}",
        *(line for name, tower in manifest.towers.items() for line in _describe_tower(name, tower)),
        *([_describe_similarity(manifest.similarity, manifest.towers["text"])] if manifest.similarity else []),
        f"opset         {provenance.opset}",
        f"made with     {packages}",
        f"size          {sum(record.size_bytes for record in manifest.files.values()) / 1e6:.1f} MB",
    ]
    return _print_lines(lines)


def describe_export(folder: Path, manifest: Manifest) -> str:
    """Return a summary of a new artifact: its folder, its parity with the reference, and warnings about its weights."""
    lines = [f"{folder}: {manifest.output_dim} dimensions, weights {manifest.weights.description}"]
    lines += [f"  {name} tower: {_describe_parity(tower)}" for name, tower in manifest.towers.items()]
    lines += [f"  WARNING: {warning}" for warning in weight_warnings(manifest)]
    return _print_lines(lines)


def weight_warnings(manifest: Manifest) -> list[str]:
    """Return warnings if code of the checkpoint was run, or if the weights are random or not the published ones."""
    warnings = []
    if manifest.weights.remote_code:
        warnings.append("code of the checkpoint itself was run to export it; the graphs are what that code computed")
    if manifest.weights.origin == "random":
        made_here = (
            "text" in manifest.towers and manifest.architecture == "transformer"
        )  # of the catalogue, not a folder
        stand_in = ", and the tokenizer is a stand-in" * made_here
        warnings.append(f"the weights are random (seed {manifest.weights.seed}): the vectors mean nothing{stand_in}")
    if manifest.weights.published is False:
        warnings.append(f"the weights are not the published ones: {manifest.weights.file} has another hash")
    return warnings


def _describe_spaces(manifest: Manifest) -> str:
    """Return the name of the space, and the names of the spaces of variants that have their own."""
    names = {name for tower in manifest.towers.values() for name in tower.variants}
    spaces = {name: space_of(manifest, dict.fromkeys(manifest.towers, name)) for name in sorted(names)}
    own = [f"{name}: {space}" for name, space in spaces.items() if space != manifest.space.id]
    return manifest.space.id + f" ({', '.join(own)})" * bool(own)


def _print_lines(lines: list[str]) -> str:
    return "\n".join(map(printable_line, lines))


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
        *_describe_prompts(tower.preprocessing),
        f"  pooling     {_describe_pooling(tower.pooling)}{projections}{', L2-normalised' if tower.normalized else ''} "
        f"(decided by the {tower.decided_by})",
        *([f"  layers      {', '.join(tower.layers)}"] if tower.layers else []),
        f"  parity      {_describe_parity(tower)}",
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
        return f"{_CLEANINGS[recipe.cleaning]}{recipe.tokenizer}, {', '.join(_describe_tokens(recipe))}"
    how = recipe.interpolation + " of floats" * (recipe.resize_dtype == "float32")
    how += " without antialias" * (not recipe.antialias)
    return (
        f"{'transparent images on white, ' * (recipe.alpha == 'white')}"
        f"{_SIDES[recipe.resize]} to {recipe.resize_size} ({how}), centre crop {recipe.crop_size}, "
        f"(x / 255 - {list(recipe.mean)}) / {list(recipe.std)} by the {recipe.arithmetic}"
    )


def _describe_tokens(recipe: TextPreprocessing) -> Iterator[str]:
    if not recipe.add_special_tokens:
        yield "without special tokens"
    yield f"at most {recipe.max_length} tokens"
    if recipe.truncation_side != "right":
        yield f"longer texts lose their {'beginning' if recipe.truncation_side == 'left' else 'end'}"
    if recipe.padding == "max_length":
        yield f"all texts padded to {recipe.max_length}"
    if "pooling_mask" in recipe.inputs:
        yield "the prompt's tokens not pooled"
    if recipe.empty_text == "refuse":
        yield "a text without tokens refused"


def _describe_prompts(recipe: Preprocessing) -> list[str]:
    """Return a line with the prompts, if there are any, and the name of the default one."""
    if not isinstance(recipe, TextPreprocessing) or not any(recipe.prompts.values()):
        return []
    texts = ", ".join(f"{name!r:.80}: {text!r:.80}" for name, text in recipe.prompts.items() if text)
    default = f"default: {recipe.default_prompt!r:.80}" if recipe.default_prompt else "no default"
    return [f"  prompts     {texts} ({default})"]


def _describe_pooling(pooling: Pooling) -> str:
    method = pooling.method if pooling.p is None else f"{pooling.method} (p {pooling.p}, eps {pooling.eps})"
    return " and ".join([method, *pooling.others])


def _describe_parity(tower: Tower) -> str:
    parity = tower.parity
    if parity is None:
        return "not measured"
    return (
        f"min cosine {format_cosine(parity.min_cosine)}, max abs error {parity.max_abs_error:.2g} "
        f"to {tower.reference}, {parity.items} inputs at batch {', '.join(map(str, parity.batch_sizes))}"
    )


def _describe_similarity(similarity: SimilarityParity, tower: Tower) -> str:
    return (
        f"similarity    max abs error {similarity.max_abs_error:.2g} to {tower.reference}, for {similarity.texts} "
        f"texts and {similarity.images} images (the reference's similarities span {similarity.spread:.2g})"
    )


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
