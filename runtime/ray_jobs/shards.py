"""Pieces: the unit in which a job is handed out, redone and written; each is a fixed range of the input's rows."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.jobs.items import SourceItem, Unreadable, cell_source
from runtime.jobs.parquet import row_source
from runtime.jobs.text_files import find_strings, read_lines, without_blanks
from runtime.ray_jobs.input_files import STEP, Format, Inputs, Source
from runtime.ray_jobs.storage import is_uri, open_place

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows ``start`` up to, not including, ``stop`` of a file.

    Attributes:
        name: What the output calls the file.
        place: Where the file is.
        start: The first row.
        stop: The row after the last.
        offset: The byte at which row ``start`` begins, in a file of lines.
    """

    name: str
    place: str
    start: int
    stop: int
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A range of the input: the same rows whenever and wherever it is read.

    Attributes:
        number: Its place among the pieces, which is its part's place in the output.
        first: Index of its first row in the whole input.
        spans: Where its rows are.
    """

    number: int
    first: int
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return sum(span.stop - span.start for span in self.spans)

    def locate(self, row: int) -> str:
        """Returns the file of one of its rows, and the row in it, for a message."""
        for span in self.spans:
            if row < span.stop - span.start:
                return f"{span.name} row {span.start + row}"
            row -= span.stop - span.start
        raise IndexError(row)

    def to_json(self) -> str:
        """Returns what :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, document: str) -> Piece:
        """Returns the piece that :meth:`to_json` wrote."""
        fields = json.loads(document)
        return cls(**fields | {"spans": tuple(Span(**span) for span in fields["spans"])})


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a piece, read.

    Attributes:
        items: What is embedded; ``None`` where a fault is.
        faults: Why a row holds no item, by its index in the piece.
        files: The file of each row.
        numbers: The index of each row in its file.
        carried: What goes to the output with each row.
    """

    items: list[Any]
    faults: dict[int, str]
    files: list[str]
    numbers: list[int]
    carried: pa.Table


def cut(inputs: Inputs, size: int) -> list[Piece]:
    """Returns the pieces of ``inputs``, of about ``size`` rows: several small files share one.

    Args:
        inputs: The files.
        size: Rows of a piece at most; rounded up to a multiple of ``STEP`` for lines, whose places are noted so often.
    """
    size = -(-size // STEP) * STEP if inputs.format in ("txt", "jsonl") else size
    pieces: list[Piece] = []
    first, rows, spans = 0, 0, list[Span]()
    for span in _spans(inputs.sources, size):
        if rows + span.stop - span.start > size:
            pieces.append(Piece(number=len(pieces), first=first, spans=tuple(spans)))
            first, rows, spans = first + rows, 0, []
        spans.append(span)
        rows += span.stop - span.start
    return [*pieces, Piece(number=len(pieces), first=first, spans=tuple(spans))] if spans else pieces


def _spans(sources: Sequence[Source], size: int) -> Iterator[Span]:
    for source in sources:
        for start in range(0, source.rows, size):
            offset = source.offsets[start // STEP] if source.offsets else 0
            stop = min(start + size, source.rows)
            yield Span(name=source.name, place=source.place, start=start, stop=stop, offset=offset)


def read_piece(piece: Piece, form: Format, column: str | None, tower: TowerName) -> Rows:
    """Reads the rows of ``piece``, by the rules of :mod:`runtime.jobs`; one that cannot be read is a fault of its own.

    Raises:
        OSError: A file cannot be read.
        pyarrow.ArrowException: A file is not what it was when it was counted.
        UsageError: A file has lost rows since.
    """
    import pyarrow as pa

    read: list[SourceItem] = []
    carried: list[pa.Table] = []
    for span in piece.spans:
        if form == "files":
            items = [_read_file(span.place)]
        elif form == "parquet":
            items, table = _read_parquet(span, column or tower, tower)
            carried.append(table)
        else:
            items = _read_lines(span, column, tower)
        if len(items) != span.stop - span.start:
            raise UsageError(f"{span.name} has changed since the job began; run it again when the input is complete")
        read += items
    return Rows(
        items=[None if isinstance(item, Unreadable) else item for item in read],
        faults={index: item.reason for index, item in enumerate(read) if isinstance(item, Unreadable)},
        files=[span.name for span in piece.spans for _ in range(span.start, span.stop)],
        numbers=[number for span in piece.spans for number in range(span.start, span.stop)],
        carried=pa.concat_tables(carried) if carried else pa.table({}),
    )


def _read_parquet(span: Span, column: str, tower: TowerName) -> tuple[list[SourceItem], pa.Table]:
    """Reads through the row groups that the span touches, batch by batch, and keeps only its rows."""
    import pyarrow as pa
    from pyarrow import parquet

    file_system, path = open_place(span.place)
    with parquet.ParquetFile(path, filesystem=file_system) as file:
        groups, skip = _row_groups(file.metadata, span)
        kept, wanted = [], span.stop - span.start
        for batch in file.iter_batches(batch_size=max(wanted, 1024), row_groups=groups):
            part = batch.slice(skip, wanted)
            kept.append(part)
            skip, wanted = max(0, skip - batch.num_rows), wanted - part.num_rows
            if not wanted:
                break
        table = pa.Table.from_batches(kept, schema=file.schema_arrow).replace_schema_metadata()
    items = [row_source(scalar, column, tower, span.name).item for scalar in table.column(column)]
    return items, table.drop_columns([column])


def _row_groups(metadata: Any, span: Span) -> tuple[list[int], int]:
    """Returns the row groups that hold the span, and how many rows of the first come before it."""
    ends = list(itertools.accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
    starts = [0, *ends[:-1]]
    groups = [i for i in range(len(ends)) if starts[i] < span.stop and ends[i] > span.start]
    return groups, span.start - starts[groups[0]] if groups else 0


def _read_lines(span: Span, column: str | None, tower: TowerName) -> list[SourceItem]:
    file_system, path = open_place(span.place)
    with file_system.open_input_file(path) as file:
        file.seek(span.offset)
        cells = read_lines(io.BufferedReader(file), span.name, first=span.start + 1)
        if column is not None:
            cells = find_strings(without_blanks(cells), column)
        elif tower != "text":
            cells = without_blanks(cells)
        wanted = itertools.islice(cells, span.stop - span.start)
        return [cell_source(value, tower, place).item for place, value in wanted]


def _read_file(place: str) -> SourceItem:
    if not is_uri(place):
        return Path(place)
    file_system, path = open_place(place)
    try:
        with file_system.open_input_file(path) as file:
            return bytes(file.read())
    except OSError as exc:
        return Unreadable(f"it cannot be read ({exc})")
