"""Find and count the input files of a Ray job by the rules of :mod:`runtime.jobs.inputs`, also behind a URI."""

from __future__ import annotations

import codecs
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pyarrow import fs

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.jobs.inputs import (
    LIST_SUFFIXES,
    check_column_use,
    folder_suffixes,
    is_pattern,
    match_pattern,
    name_suffixes,
    pattern_suffixes,
    walk_folder,
    warn_of_left_out,
)
from runtime.jobs.parquet import check_column, open_parquet
from runtime.jobs.text_files import BLANKS
from runtime.preprocess.files import file_suffix
from runtime.ray_jobs.storage import absolute, join, open_buffered, open_place, read_each, reading
from runtime.uris import is_uri, public_name

Format = Literal["parquet", "txt", "jsonl", "files"]
_SPLIT_FORMATS: Mapping[str, Format] = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}

STEP = 64  # the byte offset of every 64th line of a text file is recorded


@dataclass(frozen=True, kw_only=True)
class InputFormat:
    """How the rows of all input files are read. The workers get a copy.

    Attributes:
        name: Format of the files; each of ``files`` is an item itself.
        column: Column of parquet or key of JSON objects that holds the items.
        tower: Kind of item.
    """

    name: Format
    column: str
    tower: TowerName


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file.

    Attributes:
        name: Name in the output, see :func:`public_name`.
        place: Path or URI that any process of the cluster can open.
        rows: Number of items.
        size: Number of bytes, of a file that lists items.
        offsets: Byte offset of each ``STEP``-th item of a file of lines.
    """

    name: str
    place: str
    rows: int = 1
    size: int = 0
    offsets: array[int] = field(default_factory=lambda: array("q"))


@dataclass(frozen=True, kw_only=True)
class InputFiles:
    """The input files of a job, in order.

    Attributes:
        format: How they are read.
        files: The files.
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
            files, or else for its other files that the tower embeds. So does a pattern, unless it ends in the suffix
            of lists, such as ``*.txt``: it stands for these lists.
        column: Column of .parquet and key of .jsonl; ``None``: the name of the tower.
        tower: Kind of item.

    Raises:
        UsageError: There is no input, the files have different formats or schemas, a file holds no texts, or ``column``
            does not fit them.
    """
    files = list[InputFile]()
    for place in places:
        with reading(place):
            files += _list_files(place, tower)
    twice = [place for place, count in Counter(file.place for file in files).items() if count > 1]
    if twice:
        raise UsageError(f"{public_name(twice[0])} is given twice; each row is embedded once, so give it once")
    formats = {_format(file.name, tower) for file in files}
    if len(formats) != 1:
        found = f"of several formats, {', '.join(sorted(formats))}" if formats else "empty"
        raise UsageError(f"the input {' '.join(map(public_name, places))} is {found}; give files of one format")
    check_column_use(column, (file.name for file in files))
    form = InputFormat(name=formats.pop(), column=column or tower, tower=tower)
    if form.name == "parquet":
        return _count_rows(files, form)
    if form.name != "files":
        blanks = form.name == "txt" and tower == "text"
        files = read_each(lambda file: _count_lines(file, blanks=blanks), files)
    return InputFiles(format=form, files=files, carried=pa.schema([]))


def _list_files(place: str, tower: TowerName) -> Iterator[InputFile]:
    file_system, root = open_place(place)
    kind = file_system.get_file_info(root).type
    if kind == fs.FileType.File:
        yield InputFile(name=public_name(place), place=absolute(place))
    elif kind == fs.FileType.Directory:
        relative = _walk_uri(file_system, root) if is_uri(place) else _walk_local(place)
        listed = [name for name in relative if not _is_metadata(name)]
        for name in _pick(listed, f"the folder {public_name(place)}", folder_suffixes(tower)):
            yield InputFile(name=public_name(join(place, name)), place=absolute(join(place, name)))
    elif is_uri(place) or not is_pattern(place, tower):
        raise UsageError(f"there is no file or folder {public_name(place)}; check the input")
    else:
        names = match_pattern(place)
        for name in _pick(list(names), f"the pattern {public_name(place)}", pattern_suffixes(place, tower)):
            yield InputFile(name=public_name(name), place=absolute(name))


def _walk_local(folder: str) -> list[str]:
    """Return the files below a folder of this machine, in the order of a local job, relative to the folder."""
    return [Path(path).relative_to(folder).as_posix() for path in walk_folder(folder)]


def _walk_uri(file_system: fs.FileSystem, root: str) -> list[str]:
    """Return the files below ``root`` that are not hidden, in the order of :func:`walk_folder`, relative to it."""
    found = file_system.get_file_info(fs.FileSelector(root, recursive=True))
    parts = [info.path[len(root) :].strip("/").split("/") for info in found if info.is_file]
    return ["/".join(each) for each in sorted(parts) if not any(part.startswith(".") for part in each)]


def _is_metadata(name: str) -> bool:
    """Return whether ``name`` is one of the .parquet files that Spark and Hive write for themselves."""
    return file_suffix(name) == ".parquet" and any(part.startswith("_") for part in name.split("/"))


def _pick(names: Sequence[str], place: str, suffixes: Sequence[str]) -> list[str]:
    """Return the input files of a folder or pattern: .parquet if there are any, or else those with ``suffixes``."""
    for wanted in ((".parquet",), suffixes):
        picked = [name for name in names if file_suffix(name) in wanted]
        if picked:
            warn_of_left_out(place, Counter(map(file_suffix, names)), wanted)
            return picked
    expected = suffixes if suffixes[0] in LIST_SUFFIXES else (".parquet", *suffixes)
    raise UsageError(f"{place} holds no file that ends in {name_suffixes(expected)}; name the files themselves")


def _format(name: str, tower: TowerName) -> Format:
    suffix = file_suffix(name)
    if suffix in _SPLIT_FORMATS:
        return _SPLIT_FORMATS[suffix]
    if suffix in LIST_SUFFIXES:
        raise UsageError(f"{name} cannot be split among workers; convert it to .parquet, or leave --engine ray out")
    if tower == "text":
        way_out = f"give texts as one of {name_suffixes(tuple(_SPLIT_FORMATS))}"
        raise UsageError(f"{name} is a file, but a text is expected; {way_out}")
    return "files"


def _count_lines(file: InputFile, *, blanks: bool) -> InputFile:
    """Return ``file`` with the number of its lines; blank lines count if they are texts."""
    offsets, position, rows = array("q"), 0, 0
    with reading(file.place), open_buffered(file.place) as stream:
        for line in stream:
            text = line if position else line.removeprefix(codecs.BOM_UTF8)
            if blanks or text.strip(BLANKS.encode()):
                if rows % STEP == 0:
                    offsets.append(position)
                rows += 1
            position += len(line)
    return replace(file, rows=rows, size=position, offsets=offsets)


def _count_rows(files: Sequence[InputFile], form: InputFormat) -> InputFiles:
    """Return parquet files with their numbers of rows and their common schema."""
    footers = read_each(_read_footer, files)
    counted, schema = [file for file, _ in footers], footers[0][1]
    for file, other in footers:
        if not other.equals(schema):
            raise UsageError(f"{file.name} has other columns than {files[0].name}; embed them in separate jobs")
    check_column(schema, files[0].name, form.column, form.tower)
    return InputFiles(format=form, files=counted, carried=schema.remove(schema.get_field_index(form.column)))


def _read_footer(file: InputFile) -> tuple[InputFile, pa.Schema]:
    file_system, path = open_place(file.place)
    with reading(file.place):
        stream = file_system.open_input_file(path)
    with stream, open_parquet(stream, file.name) as opened:
        return replace(file, rows=opened.metadata.num_rows, size=stream.size()), opened.schema_arrow.remove_metadata()
