"""The command ``fit``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from exporters.catalogue.options import ExportOptions
from exporters.cli.options import add_model_options
from exporters.fit.losses import LOSSES
from exporters.fit.options import DEFAULT_LORA_RANK, FitOptions, OnError, TrainingPrecision
from exporters.fit.run import fit
from exporters.progress import StageDisplay
from runtime.arguments import ListAction, parse_path
from runtime.artifact.describe import describe_export
from runtime.artifact.reader import read_manifest

_EXPORT_OPTIONS = (
    *("weights", "select_model", "tokenizer", "tower", "revision", "trust_remote_code", "max_length", "force"),
)
_DEFAULTS = FitOptions()


def add_commands(commands: Any) -> None:
    """Add the command ``fit``."""
    parser = commands.add_parser("fit", help="Fine-tune a model on your data, and export it")
    parser.description = (
        "Fine-tune the model NAME on DATA, and export the result to a folder in OUTPUT. A folder beside it, whose name "
        "ends in -training, gets the checkpoint and a report. Nothing is exported if the model is worse than before."
    )
    parser.set_defaults(command=_fit)
    add = parser.add_argument
    add("name", metavar="NAME", help="Name of the model, as for `export`")
    add(
        "data",
        metavar="DATA",
        help="Train with this data: a .csv, .tsv, .jsonl or .parquet file with the columns item,label or a,b or "
        "a,b,negative or a,b,score, for a CLIP text,image; a folder with a folder for each class; or a pattern in "
        "which `*` stands for the class, such as 'shapes/*/train'",
    )
    add("--eval", dest="eval_data", metavar="DATA", help="Measure the model on this data (default: no evaluation)")
    _add_number(
        parser, "--val-split", "Hold out this share of the distinct rows of DATA and measure the model on them", float
    )
    add(
        "--on-error",
        choices=get_args(OnError),
        default=_DEFAULTS.on_error,
        help="What to do about bad rows, labels with one item, and rows of --eval that are in DATA: end with a list of "
        "them, or leave them out (default: %(default)s)",
    )
    add(
        "--columns",
        action=ListAction,
        default=(),
        metavar="NAME",
        help="Names of the columns of CSV files without a header, such as item,label (default: the first row has them)",
    )
    folder = Path("artifacts")
    force = "Replace an existing artifact or training of the same name (default: refuse to replace it)"
    add(
        "-o",
        "--output",
        type=parse_path,
        default=folder,
        help="Write the artifact into this folder (default: %(default)s)",
    )
    add("--force", action="store_true", help=force)
    add("--resume", action="store_true", help="Go on with an interrupted training of the same name, if there is one")
    add_model_options(parser, suffix=" and `-fit`")
    _add_training(parser.add_argument_group("training"))
    _add_model(parser.add_argument_group("what is trained"))


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--loss",
        choices=LOSSES,
        help="Train with this loss (default: ranking for a,b and a,b,negative; cosent for a,b,score; triplet-hard for "
        "labels; clip for a CLIP)",
    )
    _add_number(group, "--epochs", "Go through the data this number of times", int)
    _add_number(group, "--batch-size", "Items in a step; with pairs, all other items of a step are negatives", int)
    _add_number(group, "--mini-batch-size", "Compute a step in pieces of this size, with cached gradients", int)
    _add_number(group, "--learning-rate", "Highest learning rate", float, "the usual one of the kind of model")
    _add_number(group, "--warmup", "Share of the steps in which the learning rate rises", float)
    _add_number(group, "--seed", "Seed of new layers, of the order of the data, and of dropout", int)
    _add_number(group, "--patience", "Stop after this number of epochs without a better evaluation", int, "never")
    group.add_argument(
        "--precision",
        choices=get_args(TrainingPrecision),
        default=_DEFAULTS.precision,
        help="Precision of the arithmetic; bf16 and fp16 mix it with float32, on a GPU (default: %(default)s)",
    )
    group.add_argument("--device", choices=["cpu", "cuda"], help="Train there (default: a GPU if there is one)")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--freeze", action="store_true", help="Train only the layers after the pooling (default: all weights)"
    )
    group.add_argument(
        "--lora",
        type=int,
        nargs="?",
        const=DEFAULT_LORA_RANK,
        metavar="RANK",
        help=f"Train LoRA adapters of this rank, {DEFAULT_LORA_RANK} if none is given, and merge them (default: all "
        "weights)",
    )
    _add_number(group, "--output-dim", "Add a linear layer that makes embeddings of this length", int, "no layer")
    group.add_argument(
        "--dims",
        action=ListAction,
        type=int,
        default=(),
        metavar="N",
        help="Train the first N dimensions to be embeddings of their own (Matryoshka; default: only all dimensions)",
    )
    _add_number(group, "--max-length", "Cut texts to this number of tokens", int, "the limit of the model")


def _add_number(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, flag: str, meaning: str, kind: type, default: str = ""
) -> None:
    value = getattr(_DEFAULTS, flag.removeprefix("--").replace("-", "_"), None)
    shown = default or ("none" if value is None else str(value))
    metavar = "N" if kind is int else "X"
    parser.add_argument(flag, type=kind, default=value, metavar=metavar, help=f"{meaning} (default: {shown})")


def _fit(arguments: argparse.Namespace) -> int:
    result = fit(
        arguments.name,
        arguments.data,
        arguments.eval_data,
        output=arguments.output,
        artifact_name=arguments.artifact_name,
        options=FitOptions(**{field.name: getattr(arguments, field.name) for field in fields(FitOptions)}),
        export_options=ExportOptions(**{name: getattr(arguments, name) for name in _EXPORT_OPTIONS}),
        stage=StageDisplay(),
    )
    print(result.report.describe())
    print(f"checkpoint: {result.checkpoint}\n{describe_export(result.artifact, read_manifest(result.artifact))}")
    return 0
