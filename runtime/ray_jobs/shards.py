"""Cut the input into shards: fixed ranges of rows that a worker reads, embeds and writes as a whole."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runtime.errors import ClusterError, UsageError, one_line
from runtime.jobs.items import ItemValue, Unreadable
from runtime.jobs.parquet import parquet_file, row_item
from runtime.jobs.text_files import parse_lines, read_lines
from runtime.preprocess.files import file_suffix
from runtime.preprocess.item import UnusableItemError
from runtime.ray_jobs.input_files import STEP, InputFile, InputFiles, InputFormat
from runtime.ray_jobs.storage import OPEN_FILES, STORAGE_ERRORS, open_buffered, open_place, read_each, reading
from runtime.uris import is_uri

if TYPE_CHECKING:
    from runtime.artifact.manifest import TowerName
    from runtime.preprocess.mesh.triangles import MeshLike


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """The rows of an :class:`InputFile` from ``start`` up to, not including, ``stop``.

    ``size`` is that of the file in bytes, and ``offset`` the byte offset of the first row in a file of lines.
    """

    name: str
    place: str
    start: int
    stop: int
    size: int = 0
    offset: int = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A part of the input. Every process that reads it gets the same rows.

    Attributes:
        number: Position among the shards, and of its file in the output.
        first: Index of its first row in the whole input.
        ranges: Its rows.
    """

    number: int
    first: int
    ranges: tuple[RowRange, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(span.rows for span in self.ranges)

    def locate(self, row: int) -> str:
        """Return the file and row number of a row, for an error message."""
        for span in self.ranges:
            if row < span.rows:
                return f"{span.name} row {span.start + row}"
            row -= span.rows
        raise IndexError(row)


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """The rows of a shard in memory.

    Attributes:
        items: The items; ``None`` for a row without a readable item.
        faults: Why a row has no item, by its index in the shard.
        files: Name of each row's file.
        numbers: Index of each row in its file.
        carried: The other columns of the input.
    """

    items: list[Any]
    faults: dict[int, str]
    files: list[str]
    numbers: list[int]
    carried: pa.Table


def cut(inputs: InputFiles, size: int) -> list[Shard]:
    """Cut ``inputs`` into shards of at most ``size`` rows. Several small files share a shard.

    For files of lines, ``size`` is rounded up to a multiple of ``STEP``.
    """
    size = -(-size // STEP) * STEP if inputs.format.name in ("txt", "jsonl") else size
    shards: list[Shard] = []
    first, rows, ranges = 0, 0, list[RowRange]()
    for span in _row_ranges(inputs.files, size):
        if rows + span.rows > size:
            shards.append(Shard(number=len(shards), first=first, ranges=tuple(ranges)))
            first, rows, ranges = first + rows, 0, []
        ranges.append(span)
        rows += span.rows
    return [*shards, Shard(number=len(shards), first=first, ranges=tuple(ranges))] if ranges else shards


def _row_ranges(files: Sequence[InputFile], size: int) -> Iterator[RowRange]:
    for file in files:
        for start in range(0, file.rows, size):
            stop, offset = min(start + size, file.rows), file.offsets[start // STEP] if file.offsets else 0
            yield RowRange(name=file.name, place=file.place, start=start, stop=stop, size=file.size, offset=offset)


def read_shard(shard: Shard, form: InputFormat) -> ShardRows:
    """Read the rows of ``shard`` by the rules of :mod:`runtime.jobs`. An unreadable row affects no other row.

    Raises:
        ClusterError: A file cannot be read on this machine.
        UsageError: A file has changed since it was counted.
    """
    at_once = 1 if form.name == "parquet" else OPEN_FILES  # a row group may be large
    ranges = read_each(partial(_read_range, form=form), shard.ranges, at_once=at_once)
    for span, (_, carried) in zip(shard.ranges, ranges, strict=True):
        _check_same(carried.schema, ranges[0][1].schema, span)
    read = [item for items, _ in ranges for item in items]
    return ShardRows(
        items=[None if isinstance(item, Unreadable) else item for item in read],
        faults={index: item.reason for index, item in enumerate(read) if isinstance(item, Unreadable)},
        files=[span.name for span in shard.ranges for _ in range(span.rows)],
        numbers=[number for span in shard.ranges for number in range(span.start, span.stop)],
        carried=pa.concat_tables([carried for _, carried in ranges]),
    )


def _read_range(span: RowRange, form: InputFormat) -> tuple[list[Any], pa.Table]:
    """Return the items of a range, and its other columns."""
    if form.name == "files":
        return [_read_file(span.place, form.tower)], pa.table({})
    with reading(span.place, "the input must be at the same place on every machine", ClusterError):
        items, carried = (
            _read_parquet(span, form) if form.name == "parquet" else (_read_lines(span, form), pa.table({}))
        )
    _check_same(len(items), span.rows, span)
    return items, carried


def _check_same(found: object, counted: object, span: RowRange) -> None:
    if found != counted:
        raise UsageError(f"{span.name} has changed since the job began; run it again when the input is complete")


def _read_parquet(span: RowRange, form: InputFormat) -> tuple[list[ItemValue], pa.Table]:
    """Read the row groups that overlap ``span`` in batches, and keep only its rows."""
    file_system, path = open_place(span.place)
    with file_system.open_input_file(path) as stream:
        _check_same(stream.size(), span.size, span)
        file = parquet_file(stream)
        _check_same(form.column in file.schema_arrow.names, True, span)
        groups, skip = _row_groups(file.metadata, span)
        kept, missing = [], span.rows
        for batch in file.iter_batches(batch_size=max(missing, 1024), row_groups=groups):
            rows = batch.slice(skip, missing)
            skip, missing = max(0, skip - batch.num_rows), missing - rows.num_rows
            if rows.num_rows:  # an empty slice would keep its whole batch in memory
                kept.append(rows)
            if not missing:
                break
        table = pa.Table.from_batches(kept, schema=file.schema_arrow).replace_schema_metadata()
    items = [row_item(scalar, form.column, form.tower, span.name).item for scalar in table.column(form.column)]
    return items, table.drop_columns([form.column])


def _row_groups(metadata: Any, span: RowRange) -> tuple[list[int], int]:
    """Return the row groups that overlap ``span``, and the number of rows before it in the first of them."""
    ends = list(itertools.accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
    starts = [0, *ends[:-1]]
    groups = [i for i in range(len(ends)) if starts[i] < span.stop and ends[i] > span.start]
    return groups, span.start - starts[groups[0]] if groups else 0


def _read_lines(span: RowRange, form: InputFormat) -> list[ItemValue]:
    with open_buffered(span.place) as file:
        _check_same(file.seek(0, io.SEEK_END), span.size, span)
        file.seek(span.offset)
        lines = read_lines(file, span.name, first=span.start + 1)
        sources = parse_lines(lines, kind=form.tower, column=form.column if form.name == "jsonl" else None)
        return [source.item for source in itertools.islice(sources, span.rows)]


def _read_file(place: str, kind: TowerName) -> ItemValue | MeshLike:
    """Return the path of a local file, or the content of a file behind a URI: bytes, or a mesh."""
    if not is_uri(place):
        return Path(place)
    file_system, path = open_place(place)
    try:
        with file_system.open_input_file(path) as file:
            data = bytes(file.read())
    except STORAGE_ERRORS as exc:
        return Unreadable(f"it cannot be read ({one_line(exc)})")
    return _parse_mesh(data, file_suffix(path)) if kind == "mesh" else data


def _parse_mesh(data: bytes, suffix: str) -> Unreadable | MeshLike:
    from runtime.preprocess.mesh.formats import read_mesh_bytes

    try:
        return read_mesh_bytes(data, suffix)
    except UnusableItemError as exc:
        return Unreadable(str(exc))
