"""The commands ``similarity`` and ``search``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import console
from runtime.arguments import parse_path
from runtime.cli.options import NUMBER, add_command, add_run_options, load_model
from runtime.errors import UsageError
from runtime.jobs.items import Unreadable
from runtime.jobs.origin import check_space, read_origin
from runtime.jobs.read_vectors import read_vectors
from runtime.jobs.text_files import read_file_lines
from runtime.preprocess.image_formats import looks_like_image_path

if TYPE_CHECKING:
    from runtime.array_types import Array
    from runtime.inference.embedder import Embedder

_LABEL_LENGTH = 24  # characters of a text in its label


def add_commands(commands: Any) -> None:
    """Add the commands ``similarity`` and ``search``."""
    similarity = add_command(
        commands, "similarity", _print_similarity, "Print the similarities of a few inputs as a table"
    )
    similarity.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Image files, mesh files or texts, as the artifact requires"
    )
    add_run_options(similarity)

    search = add_command(commands, "search", _search, "Print the vectors of a file that are nearest to a query")
    search.add_argument("query", metavar="QUERY", help="Image file, mesh file or text to search for")
    search.add_argument(
        "vectors",
        type=parse_path,
        metavar="VECTORS",
        help="Output of the command embed: a .npy, .npz or .parquet file. If the artifact has a prompt for documents, "
        "give it to embed as --prompt-name.",
    )
    search.add_argument(
        "--names",
        type=parse_path,
        metavar="FILE",
        help="Read the names of the rows of VECTORS from this text file, one per line (default: the names in VECTORS, "
        "if it has any)",
    )
    search.add_argument(
        "--truncate-dim",
        help="Keep the first N dimensions of the query. Give it if embed had it, and VECTORS is a .npy (default: as in "
        "embed, which a .npz or .parquet records)",
        **NUMBER,
    )
    search.add_argument(
        "--normalize",
        action="store_true",
        help="Scale the query to unit length. Give it if embed had it, and VECTORS is a .npy (default: as in embed, "
        "which a .npz or .parquet records)",
    )
    search.add_argument("--top", default=5, help="Print the N nearest vectors (default: %(default)s)", **NUMBER)
    add_run_options(search, "its prompt for queries, if any")


def _print_similarity(arguments: argparse.Namespace) -> int:
    model = load_model(arguments)
    items = _as_items(model, arguments.inputs)
    vectors = _embed(model, items, arguments, prompt=arguments.prompt)
    _print_table(_make_labels(model, items), model.similarity(vectors, vectors), model.manifest.similarity_function)
    return 0


def _print_table(names: Sequence[str], similarities: Array, function: str) -> None:
    import numpy as np

    others = np.where(np.eye(len(names), dtype=bool) | np.isnan(similarities), -np.inf, similarities)
    nearest = [names[row.argmax()] if row.max() > -np.inf else "-" for row in others]
    table = zip(names, similarities, nearest, strict=True)
    rows = [[name, *(f"{value:.3f}" for value in row), best] for name, row, best in table]
    print(console.table([function, *names, "nearest"], rows))


def _search(arguments: argparse.Namespace) -> int:
    import numpy as np

    model = load_model(arguments)
    origin = read_origin(arguments.vectors)
    truncate_dim = arguments.truncate_dim or (origin.truncate_dim if origin else None)
    vectors, names = read_vectors(arguments.vectors, truncate_dim or model.output_dim)
    if doubt := check_space(model, arguments.vectors, origin):
        print(f"note: {doubt}", file=sys.stderr)
    if arguments.names:
        names = _read_names(arguments.names, len(vectors))
    names = names or [""] * len(vectors)
    if "text" in model.towers and arguments.prompt is None and arguments.prompt_name is None:
        arguments.prompt_name = "query"
    normalize = arguments.normalize or (origin is not None and origin.normalize)
    as_stored = {"truncate_dim": truncate_dim, "normalize": normalize}
    query = _embed(model, _as_items(model, [arguments.query]), arguments, prompt=arguments.prompt, **as_stored)
    found = model.similarity(query, vectors)[0]
    nearest = np.argsort(-found, kind="stable")[: arguments.top]
    titles = ["row", model.manifest.similarity_function, "name"]
    print(console.table(titles, [[row, f"{found[row]:.3f}", names[row]] for row in nearest]))
    return 0


def _embed(model: Embedder, items: Sequence[str | Path], arguments: argparse.Namespace, **options: Any) -> Array:
    vectors: Array = model.embed(items, batch_size=arguments.batch_size, prompt_name=arguments.prompt_name, **options)
    return vectors


def _read_names(path: Path, rows: int) -> list[str]:
    try:
        names = [_check_line(place, line) for place, line in read_file_lines(str(path))]
    except OSError as exc:
        raise UsageError(f"{path} cannot be read as text ({exc}); give a UTF-8 file") from exc
    if len(names) != rows:
        raise UsageError(f"{path} has {len(names)} lines, but the vectors have {rows} rows; give one name per row")
    return names


def _check_line(place: str, line: str | Unreadable) -> str:
    if isinstance(line, Unreadable):
        raise UsageError(f"{place}: {line.reason}")
    return line


def _as_items(model: Embedder, inputs: Sequence[str]) -> Sequence[str | Path]:
    """Return ``inputs`` as items for ``model``. With two towers, an existing file becomes a path."""
    if len(model.towers) == 1:
        return inputs
    files = {word for word in inputs if os.path.isfile(word)}  # noqa: PTH113  Path.is_file raises for long texts
    missing = [word for word in inputs if looks_like_image_path(word) and word not in files]
    if missing:
        raise UsageError(f"there is no file {missing[0]}; if it is a text, add --tower text")
    return [Path(word) if word in files else word for word in inputs]


def _make_labels(model: Embedder, items: Sequence[str | Path]) -> list[str]:
    """Return a short label for each item: the name of a file, or the beginning of a text.

    If files share a name, their labels include the folder. Labels that are still equal get a number from the second on.
    """
    labels = [_label(model, item) for item in items]
    if len(set(labels)) < len(labels) and "text" not in model.towers:
        shared = os.path.commonpath([Path(item).absolute().parent for item in items])
        labels = [os.path.relpath(item, shared) for item in items]
    return [
        label if label not in labels[:index] else f"{label} ({labels[:index].count(label) + 1})"
        for index, label in enumerate(labels)
    ]


def _label(model: Embedder, item: str | Path) -> str:
    if isinstance(item, str) and "text" in model.towers:
        return " ".join(item.split())[:_LABEL_LENGTH] or '""'
    return Path(item).stem
