"""Write the output file of a job in chunks. It appears complete, or the old file stays."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from runtime.array_types import Array
from runtime.errors import UsageError
from runtime.jobs.journal import Journal
from runtime.jobs.origin import VectorOrigin
from runtime.jobs.parquet import import_parquet
from runtime.jobs.read_vectors import RANGES
from runtime.jobs.vector_file import npy_header
from runtime.postprocess import Dtype, check_dtype, int8_ranges, quantize

SUFFIXES = (".npy", ".npz", ".parquet")
CHUNK_BYTES = 8 << 20
_CHUNK_ROWS = 65_536  # names are Python strings
_VECTORS, _REPORT = "output.partial", "report.partial"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The output file of a job.

    Attributes:
        path: The file. Its suffix, one of :data:`SUFFIXES`, selects the format. A .npy holds only the vectors. A .npz
            holds ``vectors``, ``names``, ``index`` (the position in the input), ``digests`` and for int8 ``ranges``,
            and the texts ``space`` and ``origin``. A .parquet has the columns ``index``, ``name``, ``digest`` and
            ``embedding``, and in its metadata both texts and the ranges. See
            :class:`runtime.jobs.origin.VectorOrigin`.
        dtype: Type of the vectors; not int8 for a .npy, which has no room for the ranges.
        ranges: ``[2, dim]`` float32, the smallest and the largest value of each dimension, which int8 maps to its 256
            values; ``None``: the ranges of the job's own vectors.
    """

    path: Path
    dtype: Dtype = "float32"
    ranges: Array | None = None

    def __post_init__(self) -> None:
        """Check the suffix and the ranges.

        Raises:
            UsageError: The suffix is unknown, the file is a .npy of int8, or the ranges are not for the dtype or tell
                no vectors apart.
            MissingDependencyError: The output is a .parquet file, and pyarrow is not installed.
        """
        if self.path.suffix not in SUFFIXES:
            raise UsageError(f"the output {self.path} must end in {', '.join(SUFFIXES)}")
        if self.dtype == "int8" and not self.has_names:
            raise UsageError(f"int8 needs its ranges, but {self.path} has no room for them; write .npz or .parquet")
        if self.ranges is not None:
            check_dtype(self.dtype, self.ranges, self.ranges.shape[-1])
        if self.path.suffix == ".parquet":
            import_parquet()

    @property
    def has_names(self) -> bool:
        """Whether the file holds the names of its rows."""
        return self.path.suffix != ".npy"


def write_output(journal: Journal, options: OutputOptions, origin: VectorOrigin) -> None:
    """Write the vectors of ``journal`` with their ``origin``, and the report of skipped items.

    The report is ``OUTPUT.skipped.jsonl``, with an object of index, item and reason per line. It replaces the report of
    an earlier job.

    Raises:
        OutputError: The disk is full, for example. The journal stays and can be resumed.
        UsageError: int8 has no vectors to take ranges from, or they are all equal. The journal stays.
    """
    in_place = options.path.suffix == ".npy" and options.dtype == "float32"
    try:
        with journal.writing():
            ranges = _find_ranges(journal, options) if options.dtype == "int8" else None
            if not in_place:
                _WRITERS[options.path.suffix](journal, options, ranges, origin)
            _replace_report(journal, report_path(options.path))
            if in_place:
                journal.move_vectors()
            else:
                journal.move_output(_VECTORS)
    finally:
        for name in (_VECTORS, _REPORT):
            with suppress(OSError):
                journal.work_path(name).unlink(missing_ok=True)


def report_path(output: Path) -> Path:
    """Return the path of the report of skipped items."""
    return output.with_name(f"{output.name}.skipped.jsonl")


def _replace_report(journal: Journal, place: Path) -> None:
    count = 0
    with journal.work_path(_REPORT).open("wb") as file:
        for entry in journal.entries():
            for index, item, reason in entry.failures:
                line = json.dumps({"index": index, "item": item, "reason": reason}, ensure_ascii=False)
                file.write(line.encode("utf-8", "backslashreplace") + b"\n")  # also JSON's escape of a surrogate
                count += 1
    if count:
        journal.move(_REPORT, place)
    else:
        place.unlink(missing_ok=True)  # a report of an earlier job would be misleading


def _chunks(journal: Journal) -> Iterator[Array]:
    rows, step = journal.last.rows, min(_CHUNK_ROWS, max(1, CHUNK_BYTES // (4 * journal.vectors.dim)))
    for start in range(0, rows, step):
        yield journal.vectors.read(start, min(start + step, rows))


def _quantized(journal: Journal, options: OutputOptions, ranges: Array | None) -> Iterator[Array]:
    return (quantize(chunk, options.dtype, ranges) for chunk in _chunks(journal))


def _find_ranges(journal: Journal, options: OutputOptions) -> Array:
    """Return the given ranges, or else the ranges of all vectors."""
    if options.ranges is not None:
        return options.ranges
    found: Array | None = None
    for chunk in _chunks(journal):
        low, high = int8_ranges(chunk)
        found = np.stack([low, high] if found is None else [np.minimum(found[0], low), np.maximum(found[1], high)])
    if found is None:
        raise UsageError("there are no vectors to compute ranges from; give them with --ranges")
    return found


def _write_npy(journal: Journal, options: OutputOptions, ranges: Array | None, origin: VectorOrigin) -> None:
    del origin  # the format has no place for it
    with journal.work_path(_VECTORS).open("wb") as file:
        _write_vectors(file, journal, options, ranges)


def _write_vectors(file: IO[bytes], journal: Journal, options: OutputOptions, ranges: Array | None) -> None:
    for index, chunk in enumerate(_quantized(journal, options, ranges)):
        if index == 0:
            file.write(npy_header(chunk.dtype, (journal.last.rows, chunk.shape[1])))
        file.write(np.ascontiguousarray(chunk).data)


def _write_array(file: IO[bytes], array: Array) -> None:
    """Write a small array. np.save would ignore a full disk."""
    file.write(npy_header(array.dtype, array.shape) + np.ascontiguousarray(array).tobytes())


def _write_npz(journal: Journal, options: OutputOptions, ranges: Array | None, origin: VectorOrigin) -> None:
    with zipfile.ZipFile(journal.work_path(_VECTORS), "w") as archive:
        with _open_entry(archive, "vectors") as file:
            _write_vectors(file, journal, options, ranges)
        with _open_entry(archive, "index") as file:
            _write_column(file, journal, np.dtype("<i8"), (index for index, _, _ in _rows(journal)))
        longest = max((len(name) for _, name, _ in _rows(journal)), default=0)
        with _open_entry(archive, "names", zipfile.ZIP_DEFLATED) as file:  # the padding is zeros
            _write_column(file, journal, np.dtype(f"<U{max(1, longest)}"), (name for _, name, _ in _rows(journal)))
        if ranges is not None:
            with _open_entry(archive, RANGES) as file:
                _write_array(file, ranges)
        with _open_entry(archive, "digests") as file:
            _write_column(file, journal, np.dtype("<u8"), (digest for _, _, digest in _rows(journal)))
        for name, text in origin.to_text().items():
            with _open_entry(archive, name, zipfile.ZIP_DEFLATED) as file:
                _write_array(file, np.array(text))


def _open_entry(archive: zipfile.ZipFile, name: str, compression: int = zipfile.ZIP_STORED) -> IO[bytes]:
    entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that equal vectors give equal bytes
    entry.compress_type = compression
    return archive.open(entry, "w", force_zip64=True)


def _write_column(file: IO[bytes], journal: Journal, dtype: np.dtype[Any], values: Iterator[Any]) -> None:
    file.write(npy_header(dtype, (journal.last.rows,)))
    step = min(_CHUNK_ROWS, max(1, CHUNK_BYTES // dtype.itemsize))
    while chunk := list(islice(values, step)):
        file.write(np.array(chunk, dtype).tobytes())


def _rows(journal: Journal) -> Iterator[tuple[int, str, int]]:
    """Yield the position in the input, the name and the digest of each row."""
    start = 0
    for entry in journal.entries():
        skipped = {index for index, _, _ in entry.failures}
        kept = (index for index in range(start, entry.stop) if index not in skipped)
        yield from zip(kept, entry.names or (), entry.digests or (), strict=True)
        start = entry.stop


def _write_parquet(journal: Journal, options: OutputOptions, ranges: Array | None, origin: VectorOrigin) -> None:
    import pyarrow as pa

    parquet = import_parquet()
    writer: Any = None
    rows = _rows(journal)
    metadata = origin.to_text()
    if ranges is not None:
        metadata[RANGES] = json.dumps(ranges.tolist())
    try:
        for chunk in _quantized(journal, options, ranges):
            table = _as_table(pa, list(islice(rows, len(chunk))), chunk).replace_schema_metadata(metadata)
            writer = writer or parquet.ParquetWriter(journal.work_path(_VECTORS), table.schema)
            writer.write_table(table, row_group_size=len(chunk))
    finally:
        if writer is not None:
            writer.close()


def _as_table(pa: Any, rows: list[tuple[int, str, int]], vectors: Array) -> Any:
    indices, names, digests = zip(*rows, strict=True)
    printable = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    embedding = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(vectors).ravel(), vectors.shape[1])
    columns = {"index": pa.array(indices, pa.int64()), "name": pa.array(printable, pa.string())}
    return pa.table(columns | {"digest": pa.array(digests, pa.uint64()), "embedding": embedding})


_WRITERS: dict[str, Callable[[Journal, OutputOptions, Array | None, VectorOrigin], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
