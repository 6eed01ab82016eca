"""The command line of ``python -m runtime``: arguments in, exit code out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import console
from runtime.artifact import read_manifest
from runtime.describe import describe_manifest, weight_warnings
from runtime.errors import ItemError, OutputError, UsageError
from runtime.preprocess import looks_like_image_path
from runtime.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from runtime.embedder import Embedder

_LABEL = 24  # characters of a text that name it in a table


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return console.run(lambda: arguments.command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Embed texts, images or meshes from an exported artifact, without PyTorch.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    embed = _command(commands, "embed", _embed, "write the vectors of images, meshes or texts to a .npy file")
    embed.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="one row of the output each, in order: image files, mesh files or texts, whichever the artifact embeds; "
        "where it embeds texts and images, what is not a file is a text",
    )
    embed.add_argument("-o", "--output", type=Path, required=True, help="the .npy file: [inputs, output_dim] float32")
    embed.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="an unreadable input ends the run, or is left out and listed in OUTPUT.skipped.json (default: raise)",
    )
    _add_run_options(embed)

    similarity = _command(commands, "similarity", _similarity, "print the cosine similarities of a few inputs")
    similarity.add_argument("inputs", nargs="+", metavar="INPUT", help="as for embed")
    _add_run_options(similarity)

    search = _command(commands, "search", _search, "print what is nearest to a query among vectors that embed wrote")
    search.add_argument("query", metavar="QUERY", help="one input, as for embed")
    search.add_argument("vectors", type=Path, metavar="VECTORS", help="the .npy file that embed wrote")
    search.add_argument("--names", type=Path, help="a text file with a name on each line, one for each row of VECTORS")
    search.add_argument("--top", type=int, default=5, help="how many to print (default: %(default)s)")
    _add_run_options(search)

    info = _command(commands, "info", _info, "print what an artifact is; loads no graph")
    info.add_argument("--json", action="store_true", help="print the whole manifest")

    verify = _command(commands, "verify", _verify, "check the hashes, then torch's golden vectors on this machine")
    _add_session_options(verify)

    summary = "print what is installed, which providers really run a graph here, and what to mend"
    doctor = commands.add_parser("doctor", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    doctor.add_argument("--json", action="store_true", help="print the report for machines")
    doctor.set_defaults(command=_doctor)
    return parser


def _command(commands: Any, name: str, function: Any, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the artifact's folder")
    parser.set_defaults(command=function)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=int, help="items that go through the graph together (default: as fits a budget of tokens)"
    )
    parser.add_argument(
        "--tower", choices=["text", "image"], help="take every INPUT for a text, or every one for an image file"
    )
    _add_session_options(parser)


def _add_session_options(parser: argparse.ArgumentParser) -> None:
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
        "--threads", type=int, help="threads of one run (default: what affinity mask and container quota allow)"
    )


def _embed(arguments: argparse.Namespace) -> int:
    _check_output(arguments.output)
    model = _load(arguments)
    items = _items(model, arguments.inputs)
    options = {"batch_size": arguments.batch_size, "progress": sys.stderr.isatty()}
    if arguments.on_error == "raise":
        vectors = model.embed(items, **options)
        failures: list[ItemError] = []
    else:
        vectors, _, failures, _ = model.embed(items, on_error="skip", **options)
    if failures and not len(vectors):
        raise failures[0]
    _write_vectors(arguments.output, vectors, failures)
    print(f"{arguments.output}: {len(vectors)} vectors of {model.output_dim} by {model.provider}")
    if failures:
        print(f"{len(failures)} of {len(arguments.inputs)} inputs left out: see {_report_path(arguments.output)}")
    return 0


def _similarity(arguments: argparse.Namespace) -> int:
    import numpy as np

    model = _load(arguments)
    items = _items(model, arguments.inputs)
    vectors = model.embed(items, batch_size=arguments.batch_size)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    _print_similarities(_labels(model, items), unit @ unit.T)
    return 0


def _search(arguments: argparse.Namespace) -> int:
    import numpy as np

    from runtime.agreement import cosine_similarities

    model = _load(arguments)
    vectors = _read_vectors(arguments.vectors, model.output_dim)
    names = _read_names(arguments.names, len(vectors)) if arguments.names else [""] * len(vectors)
    query = model.embed(_items(model, [arguments.query]))
    cosines = cosine_similarities(query, vectors)[0]
    nearest = np.argsort(-cosines, kind="stable")[: arguments.top]
    print(console.table(["row", "cosine", "name"], [[row, f"{cosines[row]:.3f}", names[row]] for row in nearest]))
    return 0


def _read_vectors(path: Path, output_dim: int) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        with path.open("rb") as file:
            vectors: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as vectors ({exc}); write them by `python -m runtime embed`") from exc
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or vectors.shape[1] != output_dim:
        raise UsageError(
            f"{path} holds {vectors.dtype} {list(vectors.shape)}, where [rows, {output_dim}] is expected; embed with "
            "the same artifact"
        )
    return vectors


def _read_names(path: Path, rows: int) -> list[str]:
    try:
        names = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as text ({exc})") from exc
    if len(names) != rows:
        raise UsageError(f"{path} has {len(names)} lines, where the vectors have {rows} rows")
    return names


def _load(arguments: argparse.Namespace) -> Embedder:
    from runtime.embedder import load
    from runtime.provider_options import parse_options

    model = load(
        arguments.artifact,
        provider=arguments.provider,
        provider_options=parse_options(arguments.provider, arguments.provider_option),
        threads=arguments.threads,
        tower=arguments.tower,
    )
    for warning in weight_warnings(model.manifest):
        print(f"WARNING: {warning}", file=sys.stderr)
    return model


def _items(model: Embedder, inputs: Sequence[str]) -> Sequence[str | Path]:
    """Returns the words of the command line as ``embed`` takes them: with two towers, files are paths."""
    if len(model.towers) == 1:
        return inputs
    files = {word for word in inputs if os.path.isfile(word)}  # noqa: PTH113  Path.is_file raises for long texts
    missing = [word for word in inputs if looks_like_image_path(word) and word not in files]
    if missing:
        raise UsageError(f"there is no file {missing[0]}; if it is a text, say so by --tower text")
    return [Path(word) if word in files else word for word in inputs]


def _label(model: Embedder, item: str | Path) -> str:
    if isinstance(item, str) and "text" in model.towers:
        return " ".join(item.split())[:_LABEL] or '""'
    return Path(item).stem


def _labels(model: Embedder, items: Sequence[str | Path]) -> list[str]:
    """Returns a short name for each item: a file's, with its folder where files have one name, or a text's beginning.

    What is still there several times is numbered from the second on.
    """
    labels = [_label(model, item) for item in items]
    if len(set(labels)) < len(labels) and "text" not in model.towers:
        shared = os.path.commonpath([Path(item).absolute().parent for item in items])
        labels = [os.path.relpath(item, shared) for item in items]
    return [
        label if label not in labels[:index] else f"{label} ({labels[:index].count(label) + 1})"
        for index, label in enumerate(labels)
    ]


def _print_similarities(names: Sequence[str], cosines: np.ndarray[Any, Any]) -> None:
    import numpy as np

    others = np.where(np.eye(len(names), dtype=bool), -np.inf, cosines)
    nearest = [names[index] if len(names) > 1 else "-" for index in others.argmax(axis=1)]
    rows = [
        [name, *(f"{value:.3f}" for value in row), best]
        for name, row, best in zip(names, cosines, nearest, strict=True)
    ]
    print(console.table(["cosine", *names, "nearest"], rows))


def _info(arguments: argparse.Namespace) -> int:
    manifest = read_manifest(arguments.artifact)
    print(manifest.to_json() if arguments.json else describe_manifest(manifest))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from runtime.provider_options import parse_options
    from runtime.verify import describe_verification, verify

    options = parse_options(arguments.provider, arguments.provider_option)
    result = verify(
        arguments.artifact, provider=arguments.provider, provider_options=options, threads=arguments.threads
    )
    print(f"verified: hashes, and golden vectors with {describe_verification(result)}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from runtime.doctor import describe_report, examine, report_to_json

    report = examine()
    print(report_to_json(report) if arguments.json else describe_report(report))
    return 0 if report.healthy else console.FAILURE


def _check_output(path: Path) -> None:
    if path.suffix != ".npy":
        raise UsageError(f"the output {path} must end in .npy")
    if path.is_dir():
        raise OutputError(f"the output {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} in; create it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} is read-only; name another place")


def _write_vectors(path: Path, vectors: np.ndarray[Any, Any], failures: list[ItemError]) -> None:
    """Writes vectors and report beside their places and then moves both, so that a full disk leaves no half of one."""
    import numpy as np

    partial, partial_report = (
        place.with_name(f".{place.name}.{os.getpid()}.partial") for place in (path, _report_path(path))
    )
    report = [{"index": failure.index, "item": failure.item, "reason": failure.reason} for failure in failures]
    try:
        with partial.open("wb") as file:  # not np.save: it writes by C's stdio, and takes no notice of a full disk
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
            file.write(np.ascontiguousarray(vectors).data)
        partial_report.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        partial.replace(path)
        if report:
            partial_report.replace(_report_path(path))
        else:
            _report_path(path).unlink(missing_ok=True)  # that of an earlier run would be taken for this one's
    except OSError as exc:
        raise OutputError(
            f"cannot write {path} ({exc.strerror or exc}); free some space, or name another place"
        ) from exc
    finally:
        partial.unlink(missing_ok=True)
        partial_report.unlink(missing_ok=True)


def _report_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.skipped.json")
