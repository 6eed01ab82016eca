"""Files of vectors, as ``embed`` writes them, read again."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from runtime.errors import UsageError
from runtime.jobs.parquet import import_parquet

Array: TypeAlias = "np.ndarray[Any, Any]"


class NamedVectors(NamedTuple):
    """What a file holds.

    Attributes:
        vectors: ``[rows, dim]``.
        names: The name of each row; None where the file has none.
    """

    vectors: Array
    names: list[str] | None


def read_vectors(path: Path, output_dim: int) -> NamedVectors:
    """Reads a .npy, .npz or .parquet file of float vectors of at most ``output_dim`` values.

    Raises:
        UsageError: It cannot be read, or holds something else.
        MissingDependencyError: It is a .parquet file, and pyarrow is not installed.
    """
    try:
        found = _READERS.get(path.suffix, _read_npy)(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise UsageError(f"{path} cannot be read as vectors ({exc}); write them by `python -m runtime embed`") from exc
    vectors = found.vectors
    if vectors.dtype == np.int8 and vectors.ndim == 2:
        raise UsageError(f"{path} holds int8 or binary vectors, which cannot be searched; embed again as float16, say")
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or vectors.shape[1] != output_dim:
        raise UsageError(
            f"{path} holds {vectors.dtype} {list(vectors.shape)}, where [rows, {output_dim}] is expected; embed with "
            "the same artifact, and search with the same --truncate-dim"
        )
    return found


def read_ranges(path: Path) -> Array:
    """Reads the ranges of int8 vectors: a .npy file of ``[2, dim]``, smallest and largest values.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        ranges = _read_npy(path).vectors
    except (OSError, ValueError, EOFError) as exc:
        raise UsageError(f"{path} cannot be read as ranges ({exc}); give a .npy file of [2, dimensions]") from exc
    if ranges.dtype.kind != "f" or ranges.ndim != 2 or len(ranges) != 2:
        raise UsageError(f"{path} holds {ranges.dtype} {list(ranges.shape)}, where floats [2, dimensions] are expected")
    if not np.isfinite(ranges).all() or (ranges[0] > ranges[1]).any():
        raise UsageError(f"{path} holds a smallest value above the largest, or no number; write the ranges again")
    return ranges


def _read_npy(path: Path) -> NamedVectors:
    with path.open("rb") as file:
        vectors: Array = np.lib.format.read_array(file, allow_pickle=False)
    return NamedVectors(vectors, None)


def _read_npz(path: Path) -> NamedVectors:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # by a path it leaks what is no zip
        return NamedVectors(arrays["vectors"], arrays["names"].tolist())


def _read_parquet(path: Path) -> NamedVectors:
    table = import_parquet().read_table(path, columns=["name", "embedding"])
    column = table["embedding"].combine_chunks()
    values: Array = column.flatten().to_numpy()
    return NamedVectors(values.reshape(table.num_rows, -1), table["name"].to_pylist())


_READERS = {".npz": _read_npz, ".parquet": _read_parquet}
