"""What a job reads, found and counted: parquet, lines of text or JSON, or a folder of images or meshes."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError, one_line
from runtime.jobs.parquet import check_column
from runtime.jobs.text_files import BLANKS
from runtime.preprocess.files import IMAGE_SUFFIXES
from runtime.preprocess.mesh.formats import FORMATS
from runtime.ray_jobs.storage import absolute, join, open_place, public_name

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "txt", "jsonl", "files"]

STEP = 64  # every so many lines of a text file, the byte where the line begins is noted
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".txt": "txt", ".jsonl": "jsonl"}
_ITEM_SUFFIXES: dict[TowerName, tuple[str, ...]] = {  # of the files in a folder that are items themselves
    "text": (),
    "image": IMAGE_SUFFIXES,
    "mesh": tuple(FORMATS),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file.

    Attributes:
        name: What the output calls it: as the user wrote it, without credentials.
        place: Where any process finds it.
        rows: The number of its items.
        offsets: Of a file of lines, the byte at which each ``STEP``-th begins.
    """

    name: str
    place: str
    rows: int
    offsets: array[int] = field(default_factory=lambda: array("q"))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All files of a job, which are of one format.

    Attributes:
        format: How they are read.
        column: Where an item is in a row of parquet, or in an object of JSON.
        sources: The files, in order.
        carried: Schema of what goes from input to output beside the item; empty unless parquet.
    """

    format: Format
    column: str | None
    sources: Sequence[Source]
    carried: pa.Schema

    @property
    def rows(self) -> int:
        """The number of items."""
        return sum(source.rows for source in self.sources)


def find_inputs(places: Sequence[str], column: str | None, tower: TowerName) -> Inputs:
    """Lists and counts what is in ``places``, of which each is a file or a folder.

    Args:
        places: Paths or URIs. Of a folder, its parquet is taken, or else the files that ``tower`` embeds.
        column: Where the items are in parquet, or in the objects of .jsonl; by default named as the tower.
        tower: The kind of item.

    Raises:
        UsageError: There is nothing, or it is of several formats or schemas, or ``column`` does not fit it.
    """
    found = [file for place in places for file in _list_files(place, tower)]
    _check_distinct(file.place for file in found)
    formats = {_format(file.name) for file in found}
    if len(formats) != 1:
        what = f"of several formats, {', '.join(sorted(formats))}" if formats else "empty"
        raise UsageError(f"the input {' '.join(map(public_name, places))} is {what}; give files of one format")
    form = formats.pop()
    if form == "parquet":
        return _parquet_inputs(found, column or tower, tower)
    if form == "jsonl":
        return _inputs(form, column or tower, [_count_lines(file, blanks=False) for file in found])
    if column is not None:
        raise UsageError(f"column is {column!r}, and the input is {form}, which has no columns; leave it out")
    sources = found if form == "files" else [_count_lines(file, blanks=tower == "text") for file in found]
    return _inputs(form, None, sources)


def _inputs(form: Format, column: str | None, sources: Sequence[Source]) -> Inputs:
    import pyarrow as pa

    return Inputs(format=form, column=column, sources=sources, carried=pa.schema([]))


def _list_files(place: str, tower: TowerName) -> Iterator[Source]:
    from pyarrow import fs

    file_system, root = open_place(place)
    kind = file_system.get_file_info(root).type
    if kind == fs.FileType.NotFound:
        raise UsageError(f"there is no file or folder {public_name(place)}; check the input")
    if kind == fs.FileType.File:
        yield Source(name=public_name(place), place=absolute(place), rows=1)
        return
    found = file_system.get_file_info(fs.FileSelector(root, recursive=True))
    relative = [info.path[len(root) :].lstrip("/") for info in found if info.is_file]
    for name in _pick(relative, public_name(place), tower):
        yield Source(name=public_name(join(place, name)), place=absolute(join(place, name)), rows=1)


def _pick(names: Iterable[str], folder: str, tower: TowerName) -> list[str]:
    """Returns those files of a folder that are input: its parquet, or else the items themselves."""
    seen = sorted(name for name in names if not any(part.startswith((".", "_")) for part in name.split("/")))
    for suffixes in ((".parquet",), _ITEM_SUFFIXES[tower]):
        picked = [name for name in seen if PurePosixPath(name).suffix.lower() in suffixes]
        if picked:
            return picked
    wanted = ", ".join((".parquet", *_ITEM_SUFFIXES[tower]))
    raise UsageError(f"the folder {folder} holds none of {wanted}; a .txt or .jsonl is given by its own name")


def _format(name: str) -> Format:
    return _SUFFIXES.get(PurePosixPath(name).suffix.lower(), "files")


def _check_distinct(places: Iterable[str]) -> None:
    seen: set[str] = set()
    for place in places:
        if place in seen:
            raise UsageError(f"{public_name(place)} is given twice; every row is embedded once, so give it once")
        seen.add(place)


def _count_lines(file: Source, *, blanks: bool) -> Source:
    """Counts the lines that are items: also the blank ones, if they are texts."""
    file_system, path = open_place(file.place)
    offsets, position, rows = array("q"), 0, 0
    with io.BufferedReader(file_system.open_input_file(path)) as stream:
        for line in stream:
            if blanks or line.strip(BLANKS.encode()):
                if rows % STEP == 0:
                    offsets.append(position)
                rows += 1
            position += len(line)
    return Source(name=file.name, place=file.place, rows=rows, offsets=offsets)


def _parquet_inputs(files: Sequence[Source], column: str, tower: TowerName) -> Inputs:
    sources, schemas = zip(*(_count_rows(file) for file in files), strict=True)
    first: pa.Schema = schemas[0]
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(first):
            raise UsageError(f"{file.name} has other columns than {files[0].name}; embed them by runs of their own")
    check_column(first, files[0].name, column, tower)
    carried = first.remove(first.get_field_index(column))
    return Inputs(format="parquet", column=column, sources=sources, carried=carried)


def _count_rows(file: Source) -> tuple[Source, pa.Schema]:
    import pyarrow as pa
    from pyarrow import parquet

    file_system, path = open_place(file.place)
    try:
        with parquet.ParquetFile(path, filesystem=file_system) as opened:
            source = Source(name=file.name, place=file.place, rows=opened.metadata.num_rows)
            return source, opened.schema_arrow.remove_metadata()
    except (OSError, pa.ArrowException) as exc:
        raise UsageError(f"{file.name} cannot be read as parquet ({one_line(exc)}); leave it out") from exc
