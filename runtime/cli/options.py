"""Arguments that several commands of ``python -m runtime`` share, and the model that they load."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from runtime.arguments import ListAction, parse_count, parse_path
from runtime.artifact.describe import weight_warnings
from runtime.artifact.manifest import Manifest
from runtime.artifact.variants import VARIANT_NAMES
from runtime.session.providers import ProviderName

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder

Options = TypeVar("Options")


NUMBER: dict[str, Any] = {"type": parse_count, "metavar": "N"}  # keywords of add_argument
NUMBERS: dict[str, Any] = {"action": ListAction, "type": int, "metavar": "N"}
PROVIDERS = ("auto", *get_args(ProviderName))


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    """Add a command with the argument ARTIFACT. ``function`` runs it and returns the exit code."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary}.")
    parser.add_argument("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of the artifact")
    parser.set_defaults(command=function)
    return parser


def add_run_options(parser: argparse.ArgumentParser, default_prompt: str = "its default prompt, if any") -> None:
    """Add the options of embedding, including those of a session. ``default_prompt`` describes the default."""
    group = parser.add_argument_group("batches, towers and prompts")
    group.add_argument(
        "--batch-size",
        help="Embed at most N items per batch (default: as many as fit a budget of tokens, images or points)",
        **NUMBER,
    )
    group.add_argument(
        "--tower",
        choices=["text", "image"],
        help="Treat every input as a text, or every input as an image file (default: an existing file is an image and "
        "anything else a text, if the artifact has both towers)",
    )
    group.add_argument(
        "--prompt-name",
        metavar="NAME",
        help="Put this prompt of the artifact before each text; the command info lists them. `query` and `document` "
        "are always known, and put nothing if the artifact has no such prompt (default: "
        f"{default_prompt})",
    )
    group.add_argument(
        "--prompt",
        metavar="TEXT",
        help="Put TEXT before each text, in place of a prompt of the artifact. An empty TEXT means no prompt "
        "(default: see --prompt-name).",
    )
    add_session_options(parser)


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a session."""
    group = parser.add_argument_group("provider, variant and threads")
    group.add_argument(
        "--provider",
        choices=PROVIDERS,
        default="auto",
        help="Run on this execution provider, or fail if it is not usable. auto uses the first usable one of cuda, "
        "openvino and cpu (default: %(default)s).",
    )
    group.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Set an option of the provider that --provider names, such as tf32=true for cuda, dtype=bf16 for "
        "openvino or memory_limit_bytes=400000000 for cpu; repeat it for several options (default: none)",
    )
    group.add_argument(
        "--variant",
        choices=["auto", *VARIANT_NAMES],
        default="auto",
        help="Run this variant of the graph. auto chooses an accepted one by the features of the CPU or GPU, "
        "without measuring. It may be int8, whose vectors differ from those of fp32 (default: %(default)s).",
    )
    group.add_argument(
        "--threads",
        help="Use N threads in total (default: as many as the affinity mask and the container quota allow)",
        **NUMBER,
    )
    group.add_argument(
        "--concurrent-batches",
        help="Run up to N batches side by side on a CPU, each on its share of the threads (default: one per thread)",
        **NUMBER,
    )


def session_keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of ``load`` and ``verify`` that :func:`add_session_options` stands for."""
    from runtime.session.provider_options import parse_options

    return {
        "provider": arguments.provider,
        "provider_options": parse_options(arguments.provider, arguments.provider_option),
        "threads": arguments.threads,
        "concurrent_batches": arguments.concurrent_batches,
        "variant": arguments.variant,
    }


def load_model(
    arguments: argparse.Namespace, workers: int | None = None, device_ids: Sequence[int] | None = None
) -> Embedder:
    """Load the artifact for a command with :func:`add_run_options`, and print warnings about its weights."""
    from runtime.loading.load import load

    session = session_keywords(arguments)
    model = load(arguments.artifact, tower=arguments.tower, workers=workers, device_ids=device_ids, **session)
    print_weight_warnings(model.manifest)
    return model


def print_weight_warnings(manifest: Manifest) -> None:
    """Print warnings about the weights of an artifact, such as random ones."""
    for warning in weight_warnings(manifest):
        print(f"WARNING: {warning}", file=sys.stderr)


def take_options(kind: Callable[..., Options], arguments: argparse.Namespace, **others: Any) -> Options:
    """Return an instance of a dataclass. Its fields are the arguments of the same names, and ``others``."""
    names = inspect.signature(kind).parameters
    return kind(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)} | others)
