"""The command line of ``python -m exporters``: arguments in, exit code out. Its help and list import no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

from exporters.catalogue import tables as catalogue
from exporters.catalogue.registry import BACKBONES, find_backbone
from exporters.catalogue.spec import DEFAULT_TOLERANCE, GEM_EPS, GEM_P, OPSETS, ExportOptions, check_options
from exporters.export import export
from exporters.progress import StageDisplay
from exporters.variants.options import DEFAULT_FLOORS, DEFAULT_ITEMS, VariantOptions
from runtime import console
from runtime.artifact.describe import describe_export
from runtime.artifact.manifest import TASKS, Pooling, Tolerance
from runtime.artifact.reader import read_manifest
from runtime.artifact.variants import CalibrationMethod, Level, Precision
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.version import __version__

_COMMANDS = ("export", "optimize", "list")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "export")  # `exporters resnet-base` is short for `exporters export resnet-base`
    parsed = _parser().parse_args(arguments)
    return console.run(lambda: parsed.command(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exporters",
        description="Export embedding backbones to ONNX artifacts, each proven against torch.",
        epilog="`python -m exporters resnet-base` is short for `python -m exporters export resnet-base`; "
        "`python -m exporters export --help` lists the options.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_export(commands.add_parser("export", help="write an artifact for each NAME"))
    _add_optimize(commands.add_parser("optimize", help="add faster variants to an artifact, each proven"))
    _add_list(commands.add_parser("list", help="print the catalogue"))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write OUTPUT/NAME for each NAME: the graph, its manifest, golden vectors, a README."
    parser.set_defaults(command=_export)
    parser.add_argument("names", nargs="+", metavar="NAME", help="backbones of the catalogue, or `all`")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("artifacts"),
        help="folder for the artifacts' folders (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default="pretrained",
        metavar="pretrained|random[:SEED]|PATH",
        help="pretrained: the library's own, downloaded once; random: seeded, to try a pipeline or measure speed "
        "without a download; PATH: your own, as a state dict (.pt, .pth, .bin, .safetensors), a folder in the layout "
        "of transformers or sentence-transformers, or the folder or zip of a Finetuner run (default: %(default)s)",
    )
    parser.add_argument(
        "--select-model",
        metavar="MODEL",
        help="which model of a Finetuner run that holds two: clip-text, clip-vision or both",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="the folder of the tokenizer, for weights that come without one (default: that of the hub)",
    )
    parser.add_argument(
        "--tower", choices=["text", "image"], help="export one tower of a CLIP alone (default: both, into one artifact)"
    )
    parser.add_argument(
        "--name",
        dest="artifact_name",
        metavar="NEW",
        help="what to call the artifact of a fine-tuned descendant, instead of NAME",
    )
    parser.add_argument("--force", action="store_true", help="replace artifacts that exist, which is refused otherwise")

    _add_graph_options(parser.add_argument_group("what the graph does"))
    variants = parser.add_argument_group("faster variants beside it, as by `optimize`")
    variants.add_argument("--optimize", action="store_true", help="add the variant optimized, as by --precision fp32")
    _add_variant_options(variants)
    _add_gate_options(parser.add_argument_group("how close to torch it has to be, or no artifact is written"))


def _add_optimize(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Add variants of its graphs to ARTIFACT: each is held to floors on real items before it is written, and the "
        "runtime takes the fastest that is made for its machine."
    )
    parser.set_defaults(command=_optimize)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the artifact's folder")
    _add_variant_options(parser)
    parser.add_argument(
        "--method",
        choices=get_args(CalibrationMethod),
        default="minmax",
        help="how int8's ranges follow from the values that were seen (default: %(default)s)",
    )
    parser.add_argument(
        "--items",
        type=int,
        help="how many to calibrate with, and as many others to judge by "
        f"(default: {', '.join(f'{kind} {count}' for kind, count in DEFAULT_ITEMS.items())})",
    )
    for flag, what in (
        ("--min-cosine", "cosine similarity to the fp32 graph's vector"),
        ("--min-overlap", "mean share of ten nearest neighbours that stay"),
        ("--min-invariance", "cosine similarity to the vector in another batch or by other threads"),
    ):
        name = flag[2:].replace("-", "_")
        defaults = ", ".join(f"{precision} {getattr(floors, name)}" for precision, floors in DEFAULT_FLOORS.items())
        parser.add_argument(flag, type=float, help=f"smallest {what} (default: {defaults})")
    parser.add_argument(
        "--accept-batch-dependent",
        action="store_true",
        help="let int8 take its ranges from each batch, so that a vector depends on what it is embedded with",
    )


def _add_variant_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--level",
        choices=get_args(Level)[1:],
        default="extended",
        help="basic: within ONNX's own operators; extended: attention, normalisations and activations in ONNX "
        "Runtime's; all: also laid out for this machine's CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        default=[],
        help="fp32: optimized alone; fp16: for GPUs; int8: for CPUs; several at once",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="a folder of your images or meshes, or a .txt of your texts, half to calibrate with and half to judge by "
        "(default: what comes with this package and with Python)",
    )


def _add_graph_options(graph: argparse._ArgumentGroup) -> None:
    graph.add_argument(
        "--pooling",
        choices=["avg", "mean", "cls", "max", "gem"],
        help="CNNs: avg, how they were trained, or gem, which favours the strongest activations, for weights "
        "that were fine-tuned with it; texts: mean, cls, max or gem; CLIP and PointNet++ have their own (default: "
        "what the checkpoint says, else avg and mean)",
    )
    graph.add_argument(
        "--gem-p", type=float, metavar="P", help=f"gem's exponent: 1 is avg, large is max (default: {GEM_P})"
    )
    graph.add_argument(
        "--gem-eps", type=float, metavar="EPS", help=f"gem's lower clamp, as in training (default: {GEM_EPS})"
    )
    graph.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale to unit length, so that a dot product is the cosine similarity (default: what the checkpoint's "
        "files say, else not)",
    )
    graph.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the square that the network sees; smaller is faster, other than in training is less accurate "
        "(default: that of the weights)",
    )
    graph.add_argument(
        "--input",
        choices=["uint8", "float32"],
        default="uint8",
        help="uint8: raw pixels, normalised inside the graph, a quarter of the bytes to a GPU; float32: normalised "
        "pixel_values, for other tools that prepare them (default: %(default)s)",
    )
    graph.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=OPSETS.start,
        help="ONNX operator set: the lowest is read by the most runtimes (default: %(default)s)",
    )


def _add_gate_options(gate: argparse._ArgumentGroup) -> None:
    gate.add_argument(
        "--min-cosine",
        type=float,
        default=DEFAULT_TOLERANCE.min_cosine,
        help="smallest cosine similarity to torch's embedding of the same photo (default: %(default)s)",
    )
    gate.add_argument(
        "--max-error",
        type=float,
        default=DEFAULT_TOLERANCE.max_error,
        help="largest absolute difference to torch, as a share of the largest value (default: %(default)s)",
    )
    gate.add_argument(
        "--max-distance-share",
        type=float,
        default=DEFAULT_TOLERANCE.max_distance_share,
        help="largest distance to torch's vector, as a share of the distance between the two closest photos: raise it "
        "for weights that hardly tell our photos apart (default: %(default)s)",
    )


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the catalogue."
    parser.set_defaults(command=_list)
    parser.add_argument("--task", choices=TASKS, help="only the backbones for this task")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--json", action="store_true", help="print JSON, for programs")
    layout.add_argument("--markdown", action="store_true", help="print the README's table")


def _list(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(catalogue.as_markdown(arguments.task))
    else:
        print(catalogue.as_json(arguments.task) if arguments.json else catalogue.as_table(arguments.task))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    names = _names(arguments.names)
    if arguments.artifact_name and (len(names) > 1 or Path(arguments.artifact_name).name != arguments.artifact_name):
        raise UsageError("--name is a folder's name for the artifact of one backbone")
    for name in names:
        check_options(find_backbone(name), options)
    failed = [name for name in names if not _export_one(name, arguments, options)]
    if len(names) > 1:
        print(f"{len(names) - len(failed)} of {len(names)} exported" + f"; failed: {', '.join(failed)}" * bool(failed))
    return console.FAILURE if failed else 0


def _optimize(arguments: argparse.Namespace) -> int:
    names = [field.name for field in fields(VariantOptions) if field.name != "precisions"]
    return _add_variants(arguments.artifact, arguments, names)


def _add_variants(artifact: Path, arguments: argparse.Namespace, names: Sequence[str]) -> int:
    """Makes the variants that ``arguments`` ask for, whose ``names`` are those of the options."""
    from exporters.variants.build import add_variants
    from exporters.variants.report import describe_outcomes

    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    asked = ["fp32"] if getattr(arguments, "optimize", not arguments.precision) else []
    precisions = [*dict.fromkeys([*asked, *arguments.precision])]
    outcomes = add_variants(artifact, VariantOptions(precisions=precisions, **given), stage=StageDisplay())
    print(describe_outcomes(outcomes))
    return console.FAILURE if any(outcome.failed for outcome in outcomes) else 0


def _options(arguments: argparse.Namespace) -> ExportOptions:
    if arguments.pooling != "gem" and (arguments.gem_p, arguments.gem_eps) != (None, None):
        raise UsageError("--gem-p and --gem-eps are of --pooling gem")
    gem = arguments.pooling == "gem"
    return ExportOptions(
        weights=arguments.weights,
        select_model=arguments.select_model,
        tokenizer=arguments.tokenizer,
        tower=arguments.tower,
        pooling=arguments.pooling
        and Pooling(
            method=arguments.pooling,
            p=(GEM_P if arguments.gem_p is None else arguments.gem_p) if gem else None,
            eps=(GEM_EPS if arguments.gem_eps is None else arguments.gem_eps) if gem else None,
        ),
        normalize=arguments.normalize,
        image_size=arguments.image_size,
        input=arguments.input,
        opset=arguments.opset,
        tolerance=Tolerance(
            min_cosine=arguments.min_cosine,
            max_error=arguments.max_error,
            max_distance_share=arguments.max_distance_share,
        ),
        force=arguments.force,
    )


def _names(names: Sequence[str]) -> list[str]:
    """Returns the names to export, each once; every one is checked before the first is exported."""
    chosen = [choice for name in names for choice in (BACKBONES if name == "all" else [name])]
    return list(dict.fromkeys(find_backbone(name).name for name in chosen))


def _export_one(name: str, arguments: argparse.Namespace, options: ExportOptions) -> bool:
    print(f"{name}: exporting with weights {options.weights}", file=sys.stderr)
    try:
        folder = export(
            name,
            output=arguments.output,
            artifact_name=arguments.artifact_name,
            options=options,
            stage=StageDisplay(),
        )
        print(describe_export(folder, read_manifest(folder)))
        if arguments.optimize or arguments.precision:
            return _add_variants(folder, arguments, ("level", "calibration")) == 0
    except EmbeddingBackbonesError as exc:
        print(f"error: {name}: {exc}", file=sys.stderr)
        return False
    return True
