"""The command ``export``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from exporters.catalogue.names import find_model
from exporters.catalogue.options import DEFAULT_TOLERANCE, GEM_EPS, GEM_P, ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.cli.optimize import add_asked_variants, read_variant_options
from exporters.cli.options import add_graph_options, add_model_options, add_variant_options, flag
from exporters.export import export
from exporters.families.load import check_options
from exporters.progress import StageDisplay
from exporters.variants.options import VariantOptions
from runtime import console
from runtime.arguments import parse_path
from runtime.artifact.describe import describe_export
from runtime.artifact.manifest import Pooling
from runtime.artifact.parity import Tolerance
from runtime.artifact.reader import read_manifest
from runtime.errors import EmbeddingBackbonesError, UsageError

_DISTANCE = "Largest allowed distance from torch's vector, as a share of the distance between the two closest items"
_VARIANT_OPTIONS = ("level", "calibration")
# Options of the command line that ExportOptions takes as they are.
_EXPORT_OPTIONS = {field.name for field in fields(ExportOptions) if field.init} - {"pooling", "tolerance"}


def add_commands(commands: Any) -> None:
    """Add the command ``export``."""
    parser = commands.add_parser("export", help="Export models to artifacts")
    parser.description = (
        "Export each model NAME to a folder in OUTPUT: graphs with their weights, a manifest, a few inputs with the "
        "embeddings of the model's own library, and a README. The folder is written only if the graphs agree with it."
    )
    parser.set_defaults(command=_export)
    add = parser.add_argument
    add(
        "names",
        nargs="+",
        metavar="NAME",
        help="Names of models: a backbone of the catalogue, or `all` for every one; the folder of a model; a hub id "
        "such as intfloat/e5-small-v2; timm:NAME, torchvision:NAME, open_clip:MODEL or open_clip:MODEL/TAG",
    )
    folder = Path("artifacts")
    add(
        "-o",
        "--output",
        type=parse_path,
        default=folder,
        help="Write the artifacts into this folder (default: %(default)s)",
    )
    add_model_options(parser, suffix="")
    add("--force", action="store_true", help="Replace existing artifacts (default: refuse to replace them)")

    add_graph_options(parser.add_argument_group("options of the graph"))
    variants = parser.add_argument_group("faster variants", "The command `optimize` has more options for them.")
    optimize = "Add the variant `optimized`, like --precision fp32 (default: no)"
    variants.add_argument("--optimize", action="store_true", help=optimize)
    add_variant_options(variants, default="none")
    gate = parser.add_argument_group("agreement with torch", "The artifact is written only if it meets these bounds.")
    for name, bound in (
        ("min_cosine", "Smallest allowed cosine similarity to torch, for the same item"),
        ("max_error", "Largest allowed difference from torch, as a share of the largest value"),
        ("max_distance_share", f"{_DISTANCE}. Raise it for weights that hardly tell the sample items apart"),
    ):
        default = getattr(DEFAULT_TOLERANCE, name)
        gate.add_argument(flag(name), type=float, default=default, help=f"{bound} (default: %(default)s)")


def _export(arguments: argparse.Namespace) -> int:
    options, variants = _options(arguments), _variant_options(arguments)
    names = _names(arguments.names)
    if arguments.artifact_name and (len(names) > 1 or Path(arguments.artifact_name).name != arguments.artifact_name):
        raise UsageError("--name takes the name of a folder, and is for one backbone at a time")
    for name in names:
        check_options(find_model(name, revision=options.revision), options)
    codes = {name: _export_one(name, arguments, options, variants) for name in names}
    failed = [name for name, code in codes.items() if code]
    if len(names) > 1:
        print(f"{len(names) - len(failed)} of {len(names)} exported" + f"; failed: {', '.join(failed)}" * bool(failed))
    return min((codes[name] for name in failed), default=0)  # wrong usage only if nothing else failed


def _options(arguments: argparse.Namespace) -> ExportOptions:
    method, gem_p, gem_eps = arguments.pooling, arguments.gem_p, arguments.gem_eps
    if method != "gem" and (gem_p, gem_eps) != (None, None):
        raise UsageError("--gem-p and --gem-eps are for --pooling gem; add it, or leave them out")
    if method == "gem":
        gem_p, gem_eps = GEM_P if gem_p is None else gem_p, GEM_EPS if gem_eps is None else gem_eps
    pooling = method and Pooling(method=method, p=gem_p, eps=gem_eps)
    tolerance = Tolerance(**{field.name: getattr(arguments, field.name) for field in fields(Tolerance)})
    named = {name: getattr(arguments, name) for name in _EXPORT_OPTIONS}
    named |= {name: tuple(named[name]) for name in ("mean", "std") if named[name] is not None}
    return ExportOptions(pooling=pooling, tolerance=tolerance, **named)


def _variant_options(arguments: argparse.Namespace) -> VariantOptions | None:
    if arguments.optimize or arguments.precision:
        return read_variant_options(arguments, _VARIANT_OPTIONS)
    if given := [flag(name) for name in _VARIANT_OPTIONS if getattr(arguments, name) is not None]:
        raise UsageError(
            f"{' and '.join(given)}: only variants take this; add --optimize or --precision, or leave it out"
        )
    return None


def _names(names: Sequence[str]) -> list[str]:
    """Return the names to export without duplicates."""
    chosen = [choice for name in names for choice in (BACKBONES if name == "all" else [name])]
    return list(dict.fromkeys(chosen))


def _export_one(
    name: str, arguments: argparse.Namespace, options: ExportOptions, variants: VariantOptions | None
) -> int:
    """Export one backbone, and return the exit code."""
    weights = "" if options.weights == ExportOptions.weights else f" with weights {options.weights}"
    print(f"{name}: exporting{weights}", file=sys.stderr)
    try:
        folder = export(
            name, output=arguments.output, artifact_name=arguments.artifact_name, options=options, stage=StageDisplay()
        )
        print(describe_export(folder, read_manifest(folder)))
        if variants:
            return add_asked_variants(folder, variants)
    except EmbeddingBackbonesError as exc:
        print(console.printable(f"error: {name}: {exc}"), file=sys.stderr)
        return console.exit_code(exc)
    return 0
