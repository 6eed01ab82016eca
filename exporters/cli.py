"""The command line of ``python -m exporters``. Its help and the command ``list`` do not import torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

from exporters.catalogue import tables
from exporters.catalogue.names import find_model
from exporters.catalogue.options import DEFAULT_TOLERANCE, GEM_EPS, GEM_P, OPSETS, ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.export import export, named_dependencies
from exporters.families.load import check_options
from exporters.fit.command import add_fit
from exporters.progress import StageDisplay
from exporters.publish.names import LAYOUT_NAMES
from exporters.variants.options import DEFAULT_FLOORS, DEFAULT_ITEMS, DEFAULT_MIN_RETRIEVAL, VariantOptions
from runtime import console
from runtime.arguments import ArgumentParser, ListAction
from runtime.artifact.describe import describe_export
from runtime.artifact.manifest import TASKS, Interpolation, Pooling, Tolerance
from runtime.artifact.reader import read_manifest
from runtime.artifact.variants import VARIANT_NAMES, CalibrationMethod, Level, Precision
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.version import __version__

_COMMANDS = ("export", "optimize", "fit", "publish", "sign", "bom", "list")
_DISTANCE = "Largest allowed distance from torch's vector, as a share of the distance between the two closest items"
_VARIANT_OPTIONS = [field.name for field in fields(VariantOptions) if field.name != "precisions"]
# Options of the command line that ExportOptions takes as they are.
_EXPORT_OPTIONS = {field.name for field in fields(ExportOptions) if field.init} - {"pooling", "tolerance"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "export")  # `exporters resnet-base` is short for `exporters export resnet-base`
    parsed = build_parser().parse_args(arguments)
    return console.run(lambda: parsed.command(parsed))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. It stores the function of a command as ``command``."""
    parser = ArgumentParser(
        prog="python -m exporters",
        description="Export embedding models to ONNX artifacts, and compare each with the vectors of its own library.",
        epilog="`python -m exporters resnet-base` is short for `python -m exporters export resnet-base`; "
        "`python -m exporters export --help` lists the options.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_export(commands.add_parser("export", help="Export models to artifacts"))
    add_optimize(commands.add_parser("optimize", help="Add faster variants to an artifact"))
    add_fit(fit := commands.add_parser("fit", help="Fine-tune a model on your data, and export it"))
    _add_model_options(fit, suffix=" and `-fit`")
    add_publish(commands.add_parser("publish", help="Lay an artifact out for other programs"))
    add_sign(commands.add_parser("sign", help="Sign an artifact with a private key"))
    add_bom(commands.add_parser("bom", help="Print the bill of materials of an artifact"))
    add_list(commands.add_parser("list", help="Print the catalogue of backbones"))
    return parser


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command ``export``."""
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
    add("--output", type=Path, default=folder, help="Write the artifacts into this folder (default: %(default)s)")
    _add_model_options(parser, suffix="")
    add("--force", action="store_true", help="Replace existing artifacts (default: refuse to replace them)")

    _add_graph_options(parser.add_argument_group("options of the graph"))
    variants = parser.add_argument_group("faster variants", "The command `optimize` has more options for them.")
    optimize = "Add the variant `optimized`, like --precision fp32 (default: no)"
    variants.add_argument("--optimize", action="store_true", help=optimize)
    _add_variant_options(variants, default="none")
    gate = parser.add_argument_group("agreement with torch", "The artifact is written only if it meets these bounds.")
    for name, bound in (
        ("min_cosine", "Smallest allowed cosine similarity to torch, for the same item"),
        ("max_error", "Largest allowed difference from torch, as a share of the largest value"),
        ("max_distance_share", f"{_DISTANCE}. Raise it for weights that hardly tell the sample items apart"),
    ):
        default = getattr(DEFAULT_TOLERANCE, name)
        gate.add_argument(_flag(name), type=float, default=default, help=f"{bound} (default: %(default)s)")


def _add_model_options(parser: argparse.ArgumentParser, *, suffix: str) -> None:
    """Add the options that say which weights, tokenizer, towers and name a model gets."""
    add = parser.add_argument
    add(
        "--weights",
        default="pretrained",
        metavar="pretrained|random[:SEED]|PATH",
        help="Use these weights. `pretrained`: the published weights, which are downloaded once. `random`: random "
        "weights with a seed (default: 0), to try a pipeline or measure its speed. PATH: a state dict (.pt, .pth, "
        ".bin, .safetensors), a folder in the layout of transformers or sentence-transformers, or the folder or zip of "
        "a Finetuner run (default: %(default)s)",
    )
    add(
        "--select-model",
        metavar="MODEL",
        help="Export this model of a Finetuner run that holds two: clip-text, clip-vision or both (default: the only "
        "model of the run)",
    )
    add(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="Use the tokenizer in this folder, for weights without a tokenizer (default: the backbone's tokenizer on "
        "the Hugging Face hub)",
    )
    add("--tower", choices=["text", "image"], help="Export only this tower of a CLIP (default: both towers)")
    add(
        "--name",
        dest="artifact_name",
        metavar="NEW",
        help="Give the artifact this name, for example for a fine-tuned model (default: NAME without library and "
        f"organisation{suffix}). Text models in a folder of --weights may then have another architecture than NAME",
    )
    add("--revision", metavar="REVISION", help="Download this branch, tag or commit of a hub id (default: the newest)")
    add(
        "--trust-remote-code",
        action="store_true",
        help="Run Python code that a checkpoint brings. Read the code first (default: refuse such checkpoints)",
    )


def add_optimize(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command ``optimize``."""
    parser.description = (
        "Add faster variants of the graphs to ARTIFACT. A variant is written only if it is accurate enough on real "
        "items. The runtime chooses the variant that suits its machine."
    )
    parser.set_defaults(command=_optimize)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="Folder of the artifact")
    _add_variant_options(parser, default="fp32")
    parser.add_argument(
        "--method",
        choices=get_args(CalibrationMethod),
        default="minmax",
        help="Compute the int8 ranges from the calibration values by this method (default: %(default)s)",
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
        defaults = ", ".join(f"{precision} {getattr(floors, name)}" for precision, floors in DEFAULT_FLOORS.items())
        parser.add_argument(_flag(name), type=float, help=f"Smallest allowed {measure} (default: {defaults})")
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
        type=Path,
        metavar="PATH",
        help="Search with these queries: a .jsonl of BEIR with `_id` and `text`, or a folder of images, whose ids are "
        "their paths in it (default: no search)",
    )
    add(
        "--qrels",
        type=Path,
        metavar="FILE",
        help="Take the relevant documents of each query from this file, in the format of BEIR (query, document, grade; "
        "tabs) or of TREC (query, 0, document, grade). Needed with --queries (default: none)",
    )
    add(
        "--corpus",
        type=Path,
        metavar="PATH",
        help="Search in these documents, given like --queries. fp32 and each variant embed all of them (default: "
        "corpus.jsonl beside --queries)",
    )
    defaults = ", ".join(f"{precision} {floor}" for precision, floor in DEFAULT_MIN_RETRIEVAL.items())
    add(
        "--min-retrieval",
        type=float,
        metavar="SHARE",
        help=f"Smallest allowed share of fp32's recall@10 and nDCG@10 (default: {defaults})",
    )


def _add_variant_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, default: str) -> None:
    parser.add_argument(
        "--level",
        choices=get_args(Level)[1:],
        default="extended",
        help="Optimize the graph up to this level. `basic` uses only ONNX operators; `extended` adds ONNX Runtime's "
        "operators for attention, normalisation and activation; `all` also changes the layout for the CPU of this "
        "machine (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        action=ListAction,
        choices=get_args(Precision),
        default=(),
        help="Add variants in these precisions. `fp32` is optimized only; `fp16` is for GPUs; `int8` is for CPUs; "
        "`compact` is for a small file "
        f"(default: {default})",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="Use your own items: a folder of images or meshes, or a .txt file with one text a line. One half is for "
        "calibration, the other half measures the accuracy (default: items that ship with this package and Python)",
    )


def _add_graph_options(graph: argparse._ArgumentGroup) -> None:
    graph.add_argument(
        "--pooling",
        choices=[*("avg", "mean", "cls", "max", "gem"), *("mean_sqrt_len_tokens", "weightedmean", "lasttoken")],
        help="Pool the features with this method. CNNs take avg, and gem for weights that were fine-tuned with it; "
        "text models take all but avg; CLIP and PointNet++ take none (default: the pooling that the checkpoint states, "
        "else avg for CNNs and mean for texts)",
    )
    gem_p = f"Exponent of gem: 1 is the mean, large values approach the maximum (default: {GEM_P})"
    graph.add_argument("--gem-p", type=float, metavar="P", help=gem_p)
    gem_eps = f"Lower clamp of gem, as in training (default: {GEM_EPS})"
    graph.add_argument("--gem-eps", type=float, metavar="EPS", help=gem_eps)
    graph.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="Scale embeddings to unit length, so that a dot product is the cosine similarity (default: as the "
        "checkpoint states, else no)",
    )
    graph.add_argument(
        "--max-length",
        type=int,
        metavar="TOKENS",
        help="Cut texts to this number of tokens, special ones included (default: the limit of the checkpoint)",
    )
    graph.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="Crop images to a square with this side. Smaller images are faster; another size than in training is less "
        "accurate (default: the size of the weights)",
    )
    _add_image_options(graph)
    graph.add_argument(
        "--input",
        choices=["uint8", "float32"],
        default="uint8",
        help="Let the graph take images in this form. `uint8`: raw pixels, which the graph normalises. `float32`: "
        "normalised pixel_values, for tools that prepare them (default: %(default)s)",
    )
    graph.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=OPSETS.start,
        help="Write this ONNX operator set. Most runtimes read the lowest one (default: %(default)s)",
    )


def _add_image_options(graph: argparse._ArgumentGroup) -> None:
    graph.add_argument(
        "--preprocessing",
        type=Path,
        metavar="FILE",
        help="Prepare images as this JSON file says: a pretrained_cfg of timm, a preprocessor_config.json of "
        "transformers, or fields of a manifest's preprocessing (default: the preprocessing of the weights)",
    )
    graph.add_argument(
        "--resize",
        metavar="PIXELS[,squash]",
        help="Scale the shorter side of an image to this length; with `,squash` both sides (default: as the weights)",
    )
    graph.add_argument(
        "--crop", type=int, metavar="PIXELS", help="Cut out a centre square with this side (default: as the weights)"
    )
    graph.add_argument(
        "--interpolation",
        choices=get_args(Interpolation),
        help="Resize images with this filter (default: as the weights)",
    )
    graph.add_argument(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="Widen the filter with the downscaling factor. Without, images are resized as floats, and the graph takes "
        "float32 (default: as the weights)",
    )
    for name, meaning in (("mean", "Subtract this"), ("std", "Divide by this")):
        graph.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{meaning} {name} of each channel, for pixels from 0 to 1 (default: as the weights)",
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_publish(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command ``publish``."""
    parser.description = (
        "Write ARTIFACT in the layouts of other programs. Each layout is opened again and held to the golden vectors "
        "of the artifact. The folder is written only if all layouts pass. Their READMEs say how to use them, and where "
        "a program gives other vectors."
    )
    parser.set_defaults(command=_publish)
    add = parser.add_argument
    add("artifact", type=Path, metavar="ARTIFACT", help="Folder of the artifact")
    add("--to", action=ListAction, choices=LAYOUT_NAMES, required=True, help="Write these layouts")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="Make this folder, with a folder of its name for each layout",
    )
    add(
        "--variant",
        action=ListAction,
        choices=VARIANT_NAMES,
        default=(),
        help="Publish these variants (default: all that a layout has names for; fp32 if it holds one graph)",
    )
    add(
        "--token-type-ids",
        action="store_true",
        help="Give text graphs an unused input token_type_ids, for programs that always give it, such as chromadb "
        "(default: no)",
    )
    add("--push", metavar="ORG/NAME", help="Upload the only layout to this repository of the Hugging Face hub")


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command ``list``."""
    parser.description = "Print the catalogue of backbones as a table."
    parser.set_defaults(command=_list)
    parser.add_argument("--task", choices=TASKS, help="Print only the backbones for this task (default: all)")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    layout.add_argument("--markdown", action="store_true", help="Print Markdown, the table of the README")


def add_sign(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command ``sign``."""
    parser.description = (
        "Sign all files of ARTIFACT, and write the signature into its folder. `python -m runtime verify ARTIFACT "
        "--require-signature PUBLIC_KEY` checks it, and so does the OpenSSF's `model_signing verify key`."
    )
    parser.set_defaults(command=_sign)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="Folder of the artifact")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PRIVATE_KEY",
        help="Sign with this private key of an elliptic curve, an unencrypted PEM file",
    )


def add_bom(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command ``bom``."""
    parser.description = (
        "Print the bill of materials of ARTIFACT as JSON, in the format CycloneDX 1.6: its files with their hashes, "
        "the origin and the licence of the weights, and a model card with the figures of parity."
    )
    parser.set_defaults(command=_bom)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="Folder of the artifact")


def _sign(arguments: argparse.Namespace) -> int:
    from exporters.signature import sign_artifact

    print(f"{sign_artifact(arguments.artifact, arguments.key)}: signed with {arguments.key}")
    return 0


def _bom(arguments: argparse.Namespace) -> int:
    from exporters.bom import make_bom

    print(json.dumps(make_bom(arguments.artifact), indent=2))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(tables.as_markdown(arguments.task))
    else:
        other = f"\n\n{tables.OTHER_MODELS}"
        print(tables.as_json(arguments.task) if arguments.json else tables.as_table(arguments.task) + other)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    names = _names(arguments.names)
    if arguments.artifact_name and (len(names) > 1 or Path(arguments.artifact_name).name != arguments.artifact_name):
        raise UsageError("--name takes the name of a folder, and is for one backbone at a time")
    for name in names:
        check_options(find_model(name, revision=options.revision), options)
    failed = [name for name in names if not _export_one(name, arguments, options)]
    if len(names) > 1:
        print(f"{len(names) - len(failed)} of {len(names)} exported" + f"; failed: {', '.join(failed)}" * bool(failed))
    return console.FAILURE if failed else 0


def _optimize(arguments: argparse.Namespace) -> int:
    return _add_variants(arguments.artifact, arguments, _VARIANT_OPTIONS)


def _add_variants(artifact: Path, arguments: argparse.Namespace, names: Sequence[str]) -> int:
    """Add the variants that ``arguments`` ask for, with the options ``names``, and return the exit code."""
    with named_dependencies():
        from exporters.variants.build import add_variants
        from exporters.variants.report import describe_outcomes

    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    asked = ["fp32"] if getattr(arguments, "optimize", not arguments.precision) else []
    precisions = [*dict.fromkeys([*asked, *arguments.precision])]
    outcomes = add_variants(artifact, VariantOptions(precisions=precisions, **given), stage=StageDisplay())
    print(describe_outcomes(outcomes))
    return console.FAILURE if any(outcome.failed for outcome in outcomes) else 0


def _publish(arguments: argparse.Namespace) -> int:
    if arguments.push and len(set(arguments.to)) > 1:
        raise UsageError("--push uploads one layout; name one by --to")
    with named_dependencies():
        from exporters.publish.publish import publish
        from exporters.publish.push import push

    folders = publish(
        arguments.artifact,
        arguments.to,
        arguments.output,
        variants=arguments.variant,
        token_types=arguments.token_type_ids,
        stage=StageDisplay(),
    )
    for folder in folders:
        print(f"{folder}: its README.md says how to use it")
    if arguments.push:
        print(push(folders[0], arguments.push))
    return 0


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


def _names(names: Sequence[str]) -> list[str]:
    """Return the names to export without duplicates."""
    chosen = [choice for name in names for choice in (BACKBONES if name == "all" else [name])]
    return list(dict.fromkeys(chosen))


def _export_one(name: str, arguments: argparse.Namespace, options: ExportOptions) -> bool:
    print(f"{name}: exporting with weights {options.weights}", file=sys.stderr)
    try:
        folder = export(
            name, output=arguments.output, artifact_name=arguments.artifact_name, options=options, stage=StageDisplay()
        )
        print(describe_export(folder, read_manifest(folder)))
        if arguments.optimize or arguments.precision:
            return _add_variants(folder, arguments, ("level", "calibration")) == 0
    except EmbeddingBackbonesError as exc:
        print(f"error: {name}: {exc}", file=sys.stderr)
        return False
    return True
