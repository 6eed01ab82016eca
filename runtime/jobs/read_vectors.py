"""Read the files of vectors that ``python -m runtime embed`` writes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.array_types import Array
from runtime.errors import UsageError
from runtime.jobs.parquet import import_parquet, open_parquet
from runtime.postprocess import dequantize

RANGES = "ranges"  # an array of a .npz; a key of the metadata of a .parquet


class NamedVectors(NamedTuple):
    """Vectors of ``[rows, dim]``, and the name of each row; ``None`` if the file holds no names."""

    vectors: Array
    names: list[str] | None


def read_vectors(path: Path, output_dim: int) -> NamedVectors:
    """Read a .npy, .npz or .parquet file of vectors of ``output_dim`` values: floats, or int8 with their ranges.

    int8 becomes float32.

    Raises:
        UsageError: The file cannot be read, or holds something else.
        MissingDependencyError: The file is .parquet, and pyarrow is not installed.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, but vectors are read from one file: a .npy, .npz or .parquet")
    try:
        found = _READERS.get(path.suffix, _read_npy)(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        way_out = "write them with `python -m runtime embed`"
        raise UsageError(f"{path} cannot be read as vectors ({exc}); {way_out}") from exc
    vectors = found.vectors
    if vectors.dtype == np.int8 and vectors.ndim == 2:
        return found._replace(vectors=_dequantize(path, vectors, output_dim))
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or vectors.shape[1] != output_dim:
        found_shape = f"{path} holds {vectors.dtype} {list(vectors.shape)}"
        way_out = "give the artifact and the --truncate-dim that made them"
        raise UsageError(f"{found_shape}, but floats [rows, {output_dim}] are expected; {way_out}")
    return found


def read_ranges(path: Path) -> Array:
    """Read the ranges in an output of int8, or in a .npy file of ``[2, dim]``, the smallest and largest values.

    Raises:
        UsageError: The file cannot be read, or holds something else.
        MissingDependencyError: The file is .parquet, and pyarrow is not installed.
    """
    try:
        ranges = find_ranges(path) if path.suffix in _READERS else _read_npy(path).vectors
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise UsageError(
            f"{path} cannot be read as ranges ({exc}); give a .npy file of [2, dimensions], or an int8 output of embed"
        ) from exc
    if ranges is None:
        raise UsageError(f"{path} has no ranges; give an output of embed with --dtype int8")
    if ranges.dtype.kind != "f" or ranges.ndim != 2 or len(ranges) != 2:
        raise UsageError(f"{path} holds {ranges.dtype} {list(ranges.shape)}, but floats [2, dimensions] are expected")
    if not np.isfinite(ranges).all() or (ranges[0] > ranges[1]).any():
        raise UsageError(f"{path} has a smallest value above the largest, or a NaN or infinity; write the ranges again")
    return ranges


def find_ranges(path: Path) -> Array | None:
    """Return the ranges of the int8 vectors in a .npz or .parquet file; ``None`` if there are none."""
    ranges = read_entry(path, RANGES)
    if ranges is None or path.suffix == ".npz":
        return ranges
    return np.array(json.loads(str(ranges)), dtype=np.float32)


def read_entry(path: Path, name: str) -> Array | None:
    """Return an array of a .npz, or a text of the metadata of a .parquet; ``None`` if there is none."""
    if path.suffix == ".npz":
        with _open_npz(path) as arrays:
            return arrays.get(name)
    if path.suffix != ".parquet":
        return None
    with open_parquet(str(path), str(path)) as file:
        text: bytes | None = (file.schema_arrow.metadata or {}).get(name.encode())
    return None if text is None else np.array(text.decode())


@contextmanager
def _open_npz(path: Path) -> Iterator[Mapping[str, Array]]:
    # Given a path, np.load leaks a file that is no zip.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        yield arrays


def _dequantize(path: Path, codes: Array, output_dim: int) -> Array:
    ranges = find_ranges(path)
    if ranges is None or ranges.shape != (2, output_dim) or codes.shape[1] != output_dim:
        raise UsageError(
            f"{path} holds int8 or binary vectors {list(codes.shape)} without ranges [2, {output_dim}], which "
            "cannot be searched; embed again with --dtype float16, or int8 in a .npz or .parquet"
        )
    return dequantize(codes, ranges)


def _read_npy(path: Path) -> NamedVectors:
    with path.open("rb") as file:
        return NamedVectors(np.lib.format.read_array(file, allow_pickle=False), None)


def _read_npz(path: Path) -> NamedVectors:
    with _open_npz(path) as arrays:
        return NamedVectors(arrays["vectors"], arrays["names"].tolist())


def _read_parquet(path: Path) -> NamedVectors:
    table = import_parquet().read_table(path, columns=["name", "embedding"])
    column = table["embedding"].combine_chunks()
    values: Array = column.flatten().to_numpy()
    return NamedVectors(values.reshape(table.num_rows, -1), table["name"].to_pylist())


_READERS = {".npz": _read_npz, ".parquet": _read_parquet}
