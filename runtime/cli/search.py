"""The commands ``similarity`` and ``search``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import console
from runtime.cli.inputs import as_items, make_labels
from runtime.cli.options import add_command, add_run_options, load_model
from runtime.errors import UsageError
from runtime.jobs.read_vectors import read_vectors

if TYPE_CHECKING:
    from runtime.array_types import Array


def add_commands(commands: Any) -> None:
    """Add the commands ``similarity`` and ``search``."""
    similarity = add_command(
        commands, "similarity", _print_similarity, "Print the cosine similarities of a few inputs as a table"
    )
    similarity.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Image files, mesh files or texts, as the artifact requires"
    )
    add_run_options(similarity)

    search = add_command(commands, "search", _search, "Print the vectors of a file that are nearest to a query")
    search.add_argument("query", metavar="QUERY", help="Image file, mesh file or text to search for")
    search.add_argument(
        "vectors", type=Path, metavar="VECTORS", help="Output of the command embed: a .npy, .npz or .parquet file"
    )
    search.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="Read the names of the rows of VECTORS from this text file, one per line (default: the names in VECTORS, "
        "if it has any)",
    )
    search.add_argument(
        "--truncate-dim",
        type=int,
        metavar="N",
        help="Compare only the first N dimensions. Give the same value to embed (default: all dimensions).",
    )
    search.add_argument(
        "--top", type=int, default=5, metavar="N", help="Print the N nearest vectors (default: %(default)s)"
    )
    add_run_options(search)


def _print_similarity(arguments: argparse.Namespace) -> int:
    from runtime.artifact.parity import cosine_similarities

    model = load_model(arguments)
    items = as_items(model, arguments.inputs)
    vectors = model.embed(items, batch_size=arguments.batch_size)
    _print_table(make_labels(model, items), cosine_similarities(vectors, vectors))
    return 0


def _print_table(names: Sequence[str], cosines: Array) -> None:
    import numpy as np

    others = np.where(np.eye(len(names), dtype=bool), -np.inf, cosines)
    nearest = [names[index] if len(names) > 1 else "-" for index in others.argmax(axis=1)]
    rows = [
        [name, *(f"{value:.3f}" for value in row), best]
        for name, row, best in zip(names, cosines, nearest, strict=True)
    ]
    print(console.table(["cosine", *names, "nearest"], rows))


def _search(arguments: argparse.Namespace) -> int:
    import numpy as np

    from runtime.artifact.parity import cosine_similarities

    model = load_model(arguments)
    dim = arguments.truncate_dim or model.output_dim
    vectors, names = read_vectors(arguments.vectors, dim)
    if arguments.names:
        names = _read_names(arguments.names, len(vectors))
    names = names or [""] * len(vectors)
    query = model.embed(as_items(model, [arguments.query]), batch_size=arguments.batch_size)[:, :dim]
    cosines = cosine_similarities(query, vectors)[0]
    nearest = np.argsort(-cosines, kind="stable")[: arguments.top]
    print(console.table(["row", "cosine", "name"], [[row, f"{cosines[row]:.3f}", names[row]] for row in nearest]))
    return 0


def _read_names(path: Path, rows: int) -> list[str]:
    try:
        names = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as text ({exc}); give a UTF-8 file") from exc
    if len(names) != rows:
        raise UsageError(f"{path} has {len(names)} lines, but the vectors have {rows} rows; give one name per row")
    return names
