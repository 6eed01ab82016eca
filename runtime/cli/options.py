"""The options of ``python -m runtime``, those that several commands share among them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from runtime.artifact.variants import VARIANT_NAMES
from runtime.postprocess import Dtype


def add_job_options(embed: argparse.ArgumentParser) -> None:
    """Adds what a job is: its inputs, its output, and what is done about failures."""
    embed.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, mesh files or texts, whichever the artifact embeds; folders; patterns, ** included; - for "
        "standard input, an item a line; .txt, an item a line; .jsonl and .parquet, see --column. Listed images and "
        "meshes are paths. With a text and an image tower, what is not a file is a text",
    )
    embed.add_argument(
        "-o",
        "--output",
        required=True,
        help="the file, a row per input in order: .npy (vectors), .npz (and names, index) or .parquet (the same); with "
        "--engine ray, a folder of parquet",
    )
    embed.add_argument("--column", help="the column of .jsonl and .parquet files (default: text, image or mesh)")
    embed.add_argument("--dtype", choices=get_args(Dtype), default="float32", help="of the vectors")
    embed.add_argument(
        "--ranges", type=Path, help="a .npy of [2, dimensions], smallest and largest values for --dtype int8"
    )
    embed.add_argument("--normalize", action="store_true", help="scale vectors to unit length")
    embed.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    embed.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="an unreadable input ends the run, or is left out and listed in OUTPUT.skipped.jsonl (default: raise)",
    )
    embed.add_argument("--resume", action="store_true", help="go on with an interrupted run, or begin if there is none")
    embed.add_argument("--force", action="store_true", help="replace an output that is there, or begin a run again")
    embed.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="draw a progress bar on standard error (default: on a terminal)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds how items are embedded, beside the options of a session."""
    parser.add_argument(
        "--batch-size", type=int, help="items that go through the graph together (default: as fits a budget of tokens)"
    )
    parser.add_argument(
        "--tower", choices=["text", "image"], help="take every INPUT for a text, or every one for an image file"
    )
    add_session_options(parser)


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Adds how an artifact is loaded."""
    parser.add_argument(
        "--provider",
        choices=["auto", "cpu", "cuda", "openvino", "tensorrt"],
        default="auto",
        help="execution provider; a named one is used or refused, auto takes the first of cuda, openvino, cpu that "
        "works (default: auto)",
    )
    parser.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the provider that is named, such as tf32=true of cuda or dtype=bf16 of openvino; repeatable",
    )
    parser.add_argument(
        "--variant",
        choices=["auto", *VARIANT_NAMES],
        default="auto",
        help="which of the artifact's graphs; auto takes the fastest here among those that passed their floors, "
        "and with --engine ray fp32 (default: auto)",
    )
    parser.add_argument(
        "--threads", type=int, help="threads of one run (default: what affinity mask and container quota allow)"
    )


def add_tune_options(tune: argparse.ArgumentParser) -> None:
    """Adds what is measured."""
    tune.add_argument(
        "--max-latency-ms",
        type=float,
        metavar="MS",
        help="take the case with most items a second among those whose calls are this fast in 95 of 100 (default: "
        "among all)",
    )
    tune.add_argument(
        "--min-cosine",
        type=float,
        default=0.999,
        help="what is further from torch by the golden vectors cannot win (default: %(default)s)",
    )
    tune.add_argument(
        "--batch-sizes", type=_numbers, default=(1, 8, 32), metavar="N,N", help="items of a call (default: 1,8,32)"
    )
    tune.add_argument(
        "--threads",
        type=_numbers,
        metavar="N,N",
        help="threads of one run (default: 1, half of, and all those allowed)",
    )
    tune.add_argument(
        "--provider",
        choices=["auto", "cpu", "cuda", "openvino", "tensorrt"],
        default="auto",
        help="the only execution provider; auto takes all that work (default: auto)",
    )
    tune.add_argument("--tower", choices=["text", "image"], help="the tower, where there are two")
    tune.add_argument("--rounds", type=int, default=10, help="turns of each case (default: %(default)s)")
    tune.add_argument("--json", action="store_true", help="print the report for machines")
    tune.add_argument("--forget", action="store_true", help="measure nothing, and remove what was found before")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no whole numbers with commas between them") from None


def add_cluster_options(embed: argparse.ArgumentParser) -> None:
    """Adds how a job is spread over processes, GPUs and machines."""
    cluster = embed.add_argument_group("past one session")
    cluster.add_argument(
        "--workers",
        type=int,
        help="processes, each with a session and its share of the threads (default: none, with ray what the cluster "
        "has room for)",
    )
    cluster.add_argument("--device-ids", type=int, nargs="+", metavar="N", help="GPUs, with a process for each")
    cluster.add_argument("--engine", choices=["local", "ray"], default="local", help="what runs it (default: local)")
    cluster.add_argument("--address", help="with ray: the cluster (default: RAY_ADDRESS, or one of this machine alone)")
    cluster.add_argument("--rows-per-part", type=int, help="with ray: rows of a part, which a killed worker costs")
