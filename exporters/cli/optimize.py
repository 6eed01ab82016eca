"""The command ``optimize``, and the variants that ``export`` adds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from exporters.cli.options import add_variant_options, flag
from exporters.progress import StageDisplay
from exporters.variants.options import DEFAULT_ITEMS, RULES, VariantOptions
from runtime import console
from runtime.arguments import parse_path
from runtime.artifact.variants import CalibrationMethod
from runtime.errors import needs_extra

_VARIANT_OPTIONS = [field.name for field in fields(VariantOptions) if field.name != "precisions"]


def add_commands(commands: Any) -> None:
    """Add the command ``optimize``."""
    parser = commands.add_parser("optimize", help="Add faster variants to an artifact")
    parser.description = (
        "Add faster variants of the graphs to ARTIFACT. A variant is written only if it is accurate enough on real "
        "items. The runtime chooses the variant that suits its machine."
    )
    parser.set_defaults(command=_optimize)
    parser.add_argument("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of the artifact")
    add_variant_options(parser, default="fp32")
    parser.add_argument(
        "--method",
        choices=get_args(CalibrationMethod),
        help="Compute the int8 ranges from the calibration values by this method (default: minmax)",
    )
    parser.add_argument(
        "--items",
        type=int,
        help="Calibrate with this number of items, and measure the accuracy with as many others "
        f"(default: {', '.join(f'{kind} {count}' for kind, count in DEFAULT_ITEMS.items())})",
    )
    for name, measure in (
        ("min_cosine", "cosine similarity to the fp32 graph"),
        ("min_overlap", "mean share of the ten nearest neighbours that the fp32 graph finds too"),
        ("min_invariance", "cosine similarity to the same item in another batch or with other threads"),
    ):
        defaults = ", ".join(f"{precision} {getattr(rules.floors, name)}" for precision, rules in RULES.items())
        parser.add_argument(flag(name), type=float, help=f"Smallest allowed {measure} (default: {defaults})")
    _add_search_options(parser.add_argument_group("your own search", "A variant is also judged by what it finds."))
    parser.add_argument(
        "--accept-batch-dependent",
        action="store_true",
        help="Quantize int8 dynamically: the ranges come from each batch, so a vector depends on the other items of "
        "its batch (default: calibrated ranges)",
    )


def _add_search_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--queries",
        type=parse_path,
        metavar="PATH",
        help="Search with these queries: a .jsonl of BEIR with `_id` and `text`, or a folder of images, whose ids are "
        "their paths in it (default: no search)",
    )
    add(
        "--qrels",
        type=parse_path,
        metavar="FILE",
        help="Take the relevant documents of each query from this file, in the format of BEIR (query, document, grade; "
        "tabs) or of TREC (query, 0, document, grade). Needed with --queries (default: none)",
    )
    add(
        "--corpus",
        type=parse_path,
        metavar="PATH",
        help="Search in these documents, given like --queries. fp32 and each variant embed all of them (default: "
        "corpus.jsonl beside --queries)",
    )
    defaults = ", ".join(f"{precision} {rules.min_retrieval}" for precision, rules in RULES.items())
    add(
        "--min-retrieval",
        type=float,
        metavar="SHARE",
        help=f"Smallest allowed share of fp32's recall@10 and nDCG@10 (default: {defaults})",
    )


def _optimize(arguments: argparse.Namespace) -> int:
    return add_asked_variants(arguments.artifact, read_variant_options(arguments, _VARIANT_OPTIONS))


def read_variant_options(arguments: argparse.Namespace, names: Sequence[str]) -> VariantOptions:
    """Return the variants that ``arguments`` ask for, with the options ``names``."""
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    asked = ["fp32"] if getattr(arguments, "optimize", not arguments.precision) else []
    return VariantOptions(precisions=[*dict.fromkeys([*asked, *arguments.precision])], **given)


def add_asked_variants(artifact: Path, options: VariantOptions) -> int:
    """Add the variants that the user asks for, and return the exit code."""
    with needs_extra("export,cpu", "exporting"):
        from exporters.variants.build import add_variants
        from exporters.variants.report import describe_outcomes

    outcomes = add_variants(artifact, options, stage=StageDisplay())
    print(describe_outcomes(outcomes))
    return console.FAILURE if any(outcome.failed for outcome in outcomes) else 0
