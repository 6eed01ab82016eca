"""Arguments that several commands of ``python -m runtime`` share, and the model that they load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.artifact.describe import weight_warnings
from runtime.artifact.variants import VARIANT_NAMES

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder

PROVIDERS = ("auto", "cpu", "cuda", "openvino", "tensorrt")


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    """Add a command with the argument ARTIFACT.

    Args:
        commands: Subparsers of the command line.
        name: Name of the command.
        function: Runs the command and returns the exit code.
        summary: Help text of the command.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary}.")
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="Folder of the artifact")
    parser.set_defaults(command=function)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of embedding, including those of a session."""
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="Embed at most N items per batch (default: as many as fit a budget of tokens, images or points)",
    )
    parser.add_argument(
        "--tower",
        choices=["text", "image"],
        help="Treat every INPUT as a text, or every INPUT as an image file (default: an existing file is an image and "
        "anything else a text, if the artifact has both towers)",
    )
    add_session_options(parser)


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a session."""
    parser.add_argument(
        "--provider",
        choices=PROVIDERS,
        default="auto",
        help="Run on this execution provider, or fail if it is not usable. auto uses the first usable one of cuda, "
        "openvino and cpu (default: %(default)s).",
    )
    parser.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Set an option of the provider that --provider names, such as tf32=true for cuda or dtype=bf16 for "
        "openvino; repeat it for several options (default: none)",
    )
    parser.add_argument(
        "--variant",
        choices=["auto", *VARIANT_NAMES],
        default="auto",
        help="Run this variant of the graph. auto chooses the fastest accepted variant for this machine, and fp32 with "
        "--engine ray (default: %(default)s).",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="Use N threads per run (default: as many as the affinity mask and the container quota allow)",
    )


def load_model(
    arguments: argparse.Namespace, *, workers: int | None = None, device_ids: Sequence[int] | None = None
) -> Embedder:
    """Load the artifact with the options of a session, and print warnings about its weights.

    Args:
        arguments: Arguments of a command with :func:`add_run_options`.
        workers: Number of worker processes.
        device_ids: GPUs, each with a worker process.
    """
    from runtime.loading.load import load
    from runtime.session.provider_options import parse_options

    model = load(
        arguments.artifact,
        provider=arguments.provider,
        provider_options=parse_options(arguments.provider, arguments.provider_option),
        threads=arguments.threads,
        workers=workers,
        device_ids=device_ids,
        tower=arguments.tower,
        variant=arguments.variant,
    )
    for warning in weight_warnings(model.manifest):
        print(f"WARNING: {warning}", file=sys.stderr)
    return model
