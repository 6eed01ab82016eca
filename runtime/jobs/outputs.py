"""From the spool to the file that was asked for, a chunk at a time; it appears whole, or the old one stays."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from runtime.errors import OutputError, UsageError
from runtime.jobs.journal import Journal
from runtime.jobs.parquet import import_parquet
from runtime.jobs.vector_file import npy_header
from runtime.postprocess import Dtype, int8_ranges, quantize

Array: TypeAlias = "np.ndarray[Any, Any]"
SUFFIXES = (".npy", ".npz", ".parquet")
_CHUNK_BYTES = 8 << 20
_CHUNK_ROWS = 65_536  # of names, as Python has them
_VECTORS, _RANGES, _REPORT = "output.partial", "ranges.partial", "report.partial"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The file that is written.

    Attributes:
        path: Where; its suffix, one of :data:`SUFFIXES`, says what. A .npy holds the vectors alone. A .npz holds
            ``vectors``, ``names`` and ``index``, the position in the input, and for int8 ``ranges``. A .parquet has the
            columns ``index``, ``name`` and ``embedding``.
        dtype: Of the vectors.
        ranges: ``[2, dim]`` float32, the smallest and the largest value of each dimension, that int8 spreads over its
            256 values; by default those of the job's own vectors.
    """

    path: Path
    dtype: Dtype = "float32"
    ranges: Array | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be written."""
        if self.path.suffix not in SUFFIXES:
            raise UsageError(f"the output {self.path} must end in {', '.join(SUFFIXES)}")
        if self.ranges is not None and self.dtype != "int8":
            raise UsageError(f"ranges are for int8, and the dtype is {self.dtype}")
        if self.path.suffix == ".parquet":
            import_parquet()

    def check_ranges(self, dim: int) -> None:
        """Refuses ranges that are not of vectors of ``dim`` values."""
        if self.ranges is not None and self.ranges.shape[1] != dim:
            raise UsageError(
                f"the ranges are of {self.ranges.shape[1]} dimensions, and the vectors have {dim}; give those of "
                "vectors of the same artifact and --truncate-dim"
            )

    @property
    def has_names(self) -> bool:
        """Whether the file names its rows."""
        return self.path.suffix != ".npy"


def write_output(journal: Journal, options: OutputOptions) -> None:
    """Writes what ``journal`` holds, the report of what was left out, and int8's ranges.

    The report is ``OUTPUT.skipped.jsonl``, an object a line with index, item and reason; one of an earlier run goes.
    The ranges are in a .npz, and beside other files: ``OUTPUT.ranges.npy``, without OUTPUT's suffix.

    Raises:
        OutputError: The disk is full, say; the journal stays, to be resumed.
    """
    try:
        _write_all(journal, options)
    except OSError as exc:
        raise OutputError(
            f"cannot write {options.path} ({exc.strerror or exc}); free some space, then run the same command with "
            "--resume"
        ) from exc
    finally:
        for name in (_VECTORS, _RANGES, _REPORT):
            with suppress(OSError):
                journal.work_path(name).unlink(missing_ok=True)


def report_path(output: Path) -> Path:
    """Returns the place of the report of what was left out."""
    return output.with_name(f"{output.name}.skipped.jsonl")


def ranges_path(output: Path) -> Path:
    """Returns the place of int8's ranges, where the output itself cannot hold them."""
    return output.with_suffix(".ranges.npy")


def _write_all(journal: Journal, options: OutputOptions) -> None:
    ranges = _find_ranges(journal, options) if options.dtype == "int8" else None
    in_place = options.path.suffix == ".npy" and options.dtype == "float32"
    if not in_place:
        _WRITERS[options.path.suffix](journal, options, ranges)
    _replace_report(journal, report_path(options.path))
    if ranges is not None and options.path.suffix != ".npz":
        with journal.work_path(_RANGES).open("wb") as file:
            _write_array(file, ranges)
        journal.move(_RANGES, ranges_path(options.path))
    if in_place:
        journal.move_spool()
    else:
        journal.move(_VECTORS, options.path)


def _replace_report(journal: Journal, place: Path) -> None:
    count = 0
    with journal.work_path(_REPORT).open("wb") as file:
        for part in journal.parts():
            for index, item, reason in part.failures:
                line = json.dumps({"index": index, "item": item, "reason": reason}, ensure_ascii=False)
                file.write(line.encode("utf-8", "backslashreplace") + b"\n")  # \udcff is JSON's escape for it too
                count += 1
    if count:
        journal.move(_REPORT, place)
    else:
        place.unlink(missing_ok=True)  # that of an earlier run would be taken for this one's


def _chunks(journal: Journal) -> Iterator[Array]:
    rows, step = journal.last.rows, min(_CHUNK_ROWS, max(1, _CHUNK_BYTES // (4 * journal.spool.dim)))
    for start in range(0, rows, step):
        yield journal.spool.read(start, min(start + step, rows))


def _quantized(journal: Journal, options: OutputOptions, ranges: Array | None) -> Iterator[Array]:
    for chunk in _chunks(journal):
        yield chunk if options.dtype == "float32" else quantize(chunk, options.dtype, ranges=ranges)


def _find_ranges(journal: Journal, options: OutputOptions) -> Array:
    """Returns the ranges that were given, or those of all vectors."""
    if options.ranges is not None:
        return options.ranges
    found: Array | None = None
    for chunk in _chunks(journal):
        low, high = int8_ranges(chunk)
        found = np.stack([low, high] if found is None else [np.minimum(found[0], low), np.maximum(found[1], high)])
    if found is None:
        raise UsageError("no vector is there to find the ranges of; give some by --ranges")
    return found


def _write_npy(journal: Journal, options: OutputOptions, ranges: Array | None) -> None:
    with journal.work_path(_VECTORS).open("wb") as file:
        _write_vectors(file, journal, options, ranges)


def _write_vectors(file: IO[bytes], journal: Journal, options: OutputOptions, ranges: Array | None) -> None:
    for index, chunk in enumerate(_quantized(journal, options, ranges)):
        if index == 0:
            file.write(npy_header(chunk.dtype, (journal.last.rows, chunk.shape[1])))
        file.write(np.ascontiguousarray(chunk).data)


def _write_array(file: IO[bytes], array: Array) -> None:
    """Writes a small array; not by np.save, which takes no notice of a full disk."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(np.ascontiguousarray(array).data)


def _write_npz(journal: Journal, options: OutputOptions, ranges: Array | None) -> None:
    with zipfile.ZipFile(journal.work_path(_VECTORS), "w") as archive:
        with _open_entry(archive, "vectors") as file:
            _write_vectors(file, journal, options, ranges)
        with _open_entry(archive, "index") as file:
            _write_column(file, journal, np.dtype("<i8"), lambda rows: [index for index, _ in rows])
        longest = max((len(name) for _, name in _rows(journal)), default=0)
        with _open_entry(archive, "names", zipfile.ZIP_DEFLATED) as file:  # padded to the longest: mostly zeros
            _write_column(file, journal, np.dtype(f"<U{max(1, longest)}"), lambda rows: [name for _, name in rows])
        if ranges is not None:
            with _open_entry(archive, "ranges") as file:
                _write_array(file, ranges)


def _open_entry(archive: zipfile.ZipFile, name: str, compression: int = zipfile.ZIP_STORED) -> IO[bytes]:
    entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980: the same vectors give the same bytes
    entry.compress_type = compression
    return archive.open(entry, "w", force_zip64=True)


def _write_column(
    file: IO[bytes],
    journal: Journal,
    dtype: np.dtype[Any],
    pick: Callable[[list[tuple[int, str]]], list[Any]],
) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": (journal.last.rows,)}
    np.lib.format.write_array_header_1_0(file, header)
    rows, step = _rows(journal), min(_CHUNK_ROWS, max(1, _CHUNK_BYTES // dtype.itemsize))
    while chunk := list(islice(rows, step)):
        file.write(np.array(pick(chunk), dtype=dtype).tobytes())


def _rows(journal: Journal) -> Iterator[tuple[int, str]]:
    """Yields the position in the input and the name of each row."""
    start = 0
    for part in journal.parts():
        left_out = {index for index, _, _ in part.failures}
        kept = (index for index in range(start, part.stop) if index not in left_out)
        yield from zip(kept, part.names or [], strict=True)
        start = part.stop


def _write_parquet(journal: Journal, options: OutputOptions, ranges: Array | None) -> None:
    import pyarrow as pa

    parquet = import_parquet()
    writer: Any = None
    rows = _rows(journal)
    try:
        for chunk in _quantized(journal, options, ranges):
            table = _as_table(pa, list(islice(rows, len(chunk))), chunk)
            writer = writer or parquet.ParquetWriter(journal.work_path(_VECTORS), table.schema)
            writer.write_table(table, row_group_size=len(chunk))
    finally:
        if writer is not None:
            writer.close()


def _as_table(pa: Any, rows: list[tuple[int, str]], vectors: Array) -> Any:
    indices, names = zip(*rows, strict=True)
    printable = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1])
    columns: Mapping[str, Any] = {
        "index": pa.array(indices, pa.int64()),
        "name": pa.array(printable, pa.string()),
        "embedding": embedding,
    }
    return pa.table(columns)


_WRITERS: dict[str, Callable[[Journal, OutputOptions, Array | None], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
