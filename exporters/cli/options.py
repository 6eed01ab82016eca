"""The options that several commands share, and those of the graph."""

from __future__ import annotations

import argparse
from typing import get_args

from exporters.catalogue.options import GEM_EPS, GEM_P, OPSETS
from exporters.variants.options import LEVELS
from runtime.arguments import ListAction, parse_path
from runtime.artifact.manifest import Interpolation, PoolingMethod
from runtime.artifact.variants import Precision


def add_model_options(parser: argparse.ArgumentParser, *, suffix: str) -> None:
    """Add the options that say which weights, tokenizer, towers and name a model gets."""
    add = parser.add_argument
    add(
        "--weights",
        default="pretrained",
        metavar="pretrained|random[:SEED]|PATH",
        help="Use these weights. `pretrained`: the published weights, which are downloaded once. `random`: random "
        "weights with a seed (default: 0), to try a pipeline or measure its speed. PATH: a state dict (.pt, .pth, "
        ".ckpt, .bin, .safetensors), a folder in the layout of transformers or sentence-transformers, or the folder or "
        "zip of a Finetuner run (default: %(default)s)",
    )
    add(
        "--select-model",
        metavar="MODEL",
        help="Export this model of a Finetuner run that holds two: clip-text, clip-vision or both (default: the only "
        "model of the run)",
    )
    add(
        "--tokenizer",
        type=parse_path,
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
        f"organisation{suffix})",
    )
    add("--revision", metavar="REVISION", help="Download this branch, tag or commit of a hub id (default: the newest)")
    add(
        "--trust-remote-code",
        action="store_true",
        help="Run Python code that a checkpoint brings. Read the code first (default: refuse such checkpoints)",
    )


def add_variant_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, default: str) -> None:
    """Add the options of variants; ``default`` names the precisions without `--precision`."""
    parser.add_argument(
        "--level",
        choices=LEVELS,
        help="Optimize the graph up to this level. `basic` uses only ONNX operators; `extended` adds ONNX Runtime's "
        "operators for attention, normalisation and activation; `all` also changes the layout for the CPU of this "
        "machine, and is for fp32 alone (default: extended)",
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
        type=parse_path,
        metavar="PATH",
        help="Use your own items: a folder of images or meshes; texts in a .txt, .jsonl, .parquet, .csv or .tsv "
        "file; for a model of texts and images, a folder that holds both. One half is for calibration, the other half "
        "measures the accuracy (default: items that ship with this package and Python)",
    )


def add_graph_options(graph: argparse._ArgumentGroup) -> None:
    """Add the options of the graph that is exported."""
    graph.add_argument(
        "--pooling",
        choices=[method for method in get_args(PoolingMethod) if method not in ("eos", "model")],
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
        type=parse_path,
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


def flag(name: str) -> str:
    """Return the option whose value argparse stores as ``name``."""
    return f"--{name.replace('_', '-')}"
