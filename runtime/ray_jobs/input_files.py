"""Find and count the input files of a Ray job by the rules of :mod:`runtime.jobs.inputs`, also behind a URI."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError, one_line
from runtime.jobs.inputs import (
    COLUMN_SUFFIXES,
    LIST_SUFFIXES,
    check_column_use,
    file_suffix,
    is_pattern,
    item_suffixes,
    match_pattern,
)
from runtime.jobs.parquet import check_column
from runtime.jobs.text_files import BLANKS
from runtime.ray_jobs.storage import absolute, is_uri, join, open_place, public_name

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "txt", "jsonl", "files"]

STEP = 64  # the byte offset of every 64th line of a text file is recorded


@dataclass(frozen=True, kw_only=True)
class InputFormat:
    """How the rows of all input files are read. The workers get a copy.

    Attributes:
        name: Format of the files; each of ``files`` is an item itself.
        column: Column of parquet or key of JSON objects that holds the items; ``None`` for other formats.
        tower: Kind of item.
    """

    name: Format
    column: str | None
    tower: TowerName


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file.

    Attributes:
        name: Name in the output: as the user wrote it, without credentials.
        place: Path or URI that any process of the cluster can open.
        rows: Number of items.
        offsets: Byte offset of each ``STEP``-th item; empty unless the file is one of lines.
    """

    name: str
    place: str
    rows: int = 1
    offsets: array[int] = field(default_factory=lambda: array("q"))


@dataclass(frozen=True, kw_only=True)
class InputFiles:
    """The input files of a job.

    Attributes:
        format: How they are read.
        files: The files, in order.
        carried: Schema of the other columns of parquet, which go to the output; empty for other formats.
    """

    format: InputFormat
    files: Sequence[InputFile]
    carried: pa.Schema

    @property
    def rows(self) -> int:
        """Number of items."""
        return sum(file.rows for file in self.files)


def find_inputs(places: Sequence[str], column: str | None, tower: TowerName) -> InputFiles:
    """List and count the items in ``places``.

    Args:
        places: Files, folders or patterns, as paths; or files and folders as URIs. A folder stands for its .parquet
            files, or else for its other files that the tower embeds.
        column: Column of .parquet and key of .jsonl; ``None``: the name of the tower.
        tower: Kind of item.

    Raises:
        UsageError: There is no input, the files have different formats or schemas, or ``column`` does not fit them.
    """
    files = [file for place in places for file in _list_files(place, tower)]
    _check_distinct(file.place for file in files)
    formats = {_format(file.name) for file in files}
    if len(formats) != 1:
        found = f"of several formats, {', '.join(sorted(formats))}" if formats else "empty"
        raise UsageError(f"the input {' '.join(map(public_name, places))} is {found}; give files of one format")
    check_column_use(column, (file.name for file in files))
    name = formats.pop()
    has_columns = f".{name}" in COLUMN_SUFFIXES
    form = InputFormat(name=name, column=(column or tower) if has_columns else None, tower=tower)
    if name == "parquet":
        return _count_rows(files, form)
    if name != "files":
        files = [_count_lines(file, blanks=name == "txt" and tower == "text") for file in files]
    return InputFiles(format=form, files=files, carried=_no_columns())


def _no_columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([])


def _list_files(place: str, tower: TowerName) -> Iterator[InputFile]:
    from pyarrow import fs

    file_system, root = open_place(place)
    kind = file_system.get_file_info(root).type
    if kind == fs.FileType.NotFound:
        for path in _match(place, tower):
            yield InputFile(name=path, place=absolute(path))
    elif kind == fs.FileType.File:
        yield InputFile(name=public_name(place), place=absolute(place))
    else:
        found = file_system.get_file_info(fs.FileSelector(root, recursive=True))
        relative = [info.path[len(root) :].lstrip("/") for info in found if info.is_file]
        visible = [name for name in relative if not any(part.startswith((".", "_")) for part in name.split("/"))]
        for name in _pick(visible, f"the folder {public_name(place)}", tower):
            yield InputFile(name=public_name(join(place, name)), place=absolute(join(place, name)))


def _match(pattern: str, tower: TowerName) -> list[str]:
    if is_uri(pattern) or not is_pattern(pattern, tower):
        raise UsageError(f"there is no file or folder {public_name(pattern)}; check the input")
    found = match_pattern(pattern, (*LIST_SUFFIXES, *item_suffixes(tower)))
    return _pick(list(found), f"the pattern {pattern}", tower)


def _pick(names: Sequence[str], place: str, tower: TowerName) -> list[str]:
    """Return the input files of a folder or pattern: .parquet if there are any, or else the files for the tower."""
    other = item_suffixes(tower) or LIST_SUFFIXES
    for suffixes in ((".parquet",), other):
        picked = [name for name in sorted(names) if file_suffix(name) in suffixes]
        if picked:
            return picked
    expected = ", ".join(dict.fromkeys((".parquet", *other)))
    raise UsageError(f"{place} holds no file that ends in {expected}; name the files themselves")


def _format(name: str) -> Format:
    suffix = file_suffix(name)
    return cast("Format", suffix[1:]) if suffix in LIST_SUFFIXES else "files"


def _check_distinct(places: Iterable[str]) -> None:
    seen: set[str] = set()
    for place in places:
        if place in seen:
            raise UsageError(f"{public_name(place)} is given twice; each row is embedded once, so give it once")
        seen.add(place)


def _count_lines(file: InputFile, *, blanks: bool) -> InputFile:
    """Return ``file`` with the number of its lines; blank lines count if they are texts."""
    file_system, path = open_place(file.place)
    offsets, position, rows = array("q"), 0, 0
    with io.BufferedReader(file_system.open_input_file(path)) as stream:
        for line in stream:
            if blanks or line.strip(BLANKS.encode()):
                if rows % STEP == 0:
                    offsets.append(position)
                rows += 1
            position += len(line)
    return replace(file, rows=rows, offsets=offsets)


def _count_rows(files: Sequence[InputFile], form: InputFormat) -> InputFiles:
    """Return parquet files with their numbers of rows and their common schema."""
    rows, schemas = zip(*map(_read_footer, files), strict=True)
    schema: pa.Schema = schemas[0]
    for file, other in zip(files, schemas, strict=True):
        if not other.equals(schema):
            raise UsageError(f"{file.name} has other columns than {files[0].name}; embed them in separate jobs")
    column = form.column or form.tower
    check_column(schema, files[0].name, column, form.tower)
    counted = [replace(file, rows=count) for file, count in zip(files, rows, strict=True)]
    return InputFiles(format=form, files=counted, carried=schema.remove(schema.get_field_index(column)))


def _read_footer(file: InputFile) -> tuple[int, pa.Schema]:
    import pyarrow as pa
    from pyarrow import parquet

    file_system, path = open_place(file.place)
    try:
        with parquet.ParquetFile(path, filesystem=file_system) as opened:
            return opened.metadata.num_rows, opened.schema_arrow.remove_metadata()
    except (OSError, pa.ArrowException) as exc:
        raise UsageError(f"{file.name} cannot be read as parquet ({one_line(exc)}); leave it out") from exc
