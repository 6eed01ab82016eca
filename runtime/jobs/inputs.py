"""Find, check and read the inputs of a job: files, folders, patterns, lists of items, and texts.

The local job reads items with :func:`open_inputs`. The Ray job shares the rules for suffixes, patterns and columns.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from runtime.errors import UsageError
from runtime.jobs.csv_files import CSV_SUFFIXES, count_csv_rows, read_csv_column
from runtime.jobs.items import SourceItem, path_item, text_item
from runtime.jobs.parquet import count_rows, read_column
from runtime.jobs.text_files import count_lines, parse_lines, read_file_lines, read_lines
from runtime.preprocess.files import file_suffix
from runtime.preprocess.image_formats import image_suffixes, looks_like_image_path
from runtime.uris import SCHEMES, refuse_uri

_LOG = logging.getLogger("runtime")
_SEPARATORS = os.sep + (os.altsep or "")
STDIN = "-"
_MAX_SUFFIXES = 12  # in a message


@dataclass(frozen=True, kw_only=True)
class _ListFormat:
    """A format of files that list items. Its functions take the path, the name of the column and the kind of item.

    Attributes:
        count: Function that checks the file, and returns its number of items, or ``None``; see :class:`JobInputs`.
        read: Function that reads the items.
        has_columns: Whether the items are in a column. Otherwise, each line is one.
    """

    count: Callable[[str, str, str], int | None]
    read: Callable[[str, str, str], Iterator[SourceItem]]
    has_columns: bool = True


_CSV = _ListFormat(count=lambda path, column, _: count_csv_rows(path, column), read=read_csv_column)
_LIST_FORMATS = {
    ".txt": _ListFormat(
        count=lambda path, *_: count_lines(path),
        read=lambda path, _, kind: parse_lines(read_file_lines(path), kind=kind),
        has_columns=False,
    ),
    ".jsonl": _ListFormat(
        count=lambda path, *_: count_lines(path),
        read=lambda path, column, kind: parse_lines(read_file_lines(path), kind=kind, column=column),
    ),
    ".parquet": _ListFormat(count=count_rows, read=read_column),
    **dict.fromkeys(CSV_SUFFIXES, _CSV),
}
LIST_SUFFIXES = tuple(_LIST_FORMATS)
COLUMN_SUFFIXES = tuple(suffix for suffix, form in _LIST_FORMATS.items() if form.has_columns)
# A word that ends like this is the name of a file that is not there, and not a text.
_FILE_SUFFIXES = (
    *LIST_SUFFIXES,
    ".json",
    ".md",
    ".html",
    ".xml",
    ".pdf",
    ".doc",
    ".docx",
    ".xls",
    ".xlsx",
    ".gz",
    ".zip",
)
_PATH_STARTS = ("/", "./", "../", "~/")  # a shell leaves a ~ in quotes as it is
_PIPE = "to embed the words themselves, pipe them in, one item per line, with the input `-`"


@dataclass(frozen=True)
class JobInputs:
    """The items of one input or several, in order.

    Attributes:
        total: Number of items; ``None`` if only reading them would tell. It may count blank lines, which are no items.
        read: Function that reads the items.
        lists: The named files that list items.
    """

    total: int | None
    read: Callable[[], Iterator[SourceItem]]
    lists: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SourceItem]:
        return self.read()


def open_inputs(inputs: Sequence[str], *, towers: Sequence[str], column: str | None = None) -> JobInputs:
    """Return the items of ``inputs`` in order. Files are opened only to check and to count them.

    - An image or mesh file is one item. ``.txt`` lists one item per line; ``.jsonl``, ``.parquet``, ``.csv`` and
      ``.tsv`` list one per row, in a column. A listed item is a text, or the path of a file relative to the current
      folder.
    - ``-`` reads standard input like ``.txt``.
    - A folder stands for all files in it and below that the tower embeds, sorted. Hidden files are left out, and links
      to folders are not followed. One warning counts the other files. A pattern that the shell did not expand works the
      same way: see :func:`match_pattern`.
    - A blank line of a ``.txt`` is an empty text, so that rows keep the numbers of lines. Among paths it is skipped.
    - For a text tower, an input that is not a file is itself a text, unless it looks like the name of one. With two
      towers, a file is an image and any other input is a text. A list could then hold either, so ``--tower`` is
      required.

    Args:
        inputs: The inputs as the user wrote them.
        towers: The loaded towers.
        column: Column of ``.jsonl``, ``.parquet``, ``.csv`` and ``.tsv`` files; by default the name of the tower.

    Raises:
        UsageError: An input does not exist, or is of the wrong kind.
        MissingDependencyError: There is a ``.parquet`` file, and pyarrow is not installed.
    """
    if inputs.count(STDIN) > 1:
        raise UsageError(f"{STDIN} is named {inputs.count(STDIN)} times, but standard input can be read only once")
    kind = towers[0] if len(towers) == 1 else None
    parser = _InputParser(kind, column or kind or "")
    return _join([parser.open(name) for name in inputs])


def check_column_use(column: str | None, files: Iterable[str]) -> None:
    """Raise a :class:`UsageError` if ``--column`` is given, but none of ``files`` has columns."""
    if column and not any(file_suffix(path) in COLUMN_SUFFIXES for path in files):
        found = f"names a column of {', '.join(COLUMN_SUFFIXES)} files, but no input is such a file"
        raise UsageError(f"--column {column} {found}; leave it out")


def folder_suffixes(kind: str | None) -> tuple[str, ...]:
    """Return the suffixes of the files that a folder stands for: lists of texts, meshes, or images."""
    if kind == "text":
        return LIST_SUFFIXES
    if kind == "mesh":
        from runtime.preprocess.mesh.formats import FORMATS

        return tuple(FORMATS)
    return image_suffixes()


def pattern_suffixes(pattern: str, kind: str | None) -> tuple[str, ...]:
    """Return the suffixes of the files that ``pattern`` stands for: its own if it names lists, else those of a folder.

    Lists hold texts or paths, so each tower reads them.
    """
    suffix = file_suffix(pattern)
    return (suffix,) if suffix in LIST_SUFFIXES else folder_suffixes(kind)


def is_pattern(name: str, kind: str | None) -> bool:
    """Return whether ``name`` is a pattern of files. A text may contain a question mark, too."""
    if not glob.has_magic(name) or kind in ("image", "mesh"):
        return glob.has_magic(name)
    is_one_word = len(name.split()) == 1
    return file_suffix(name) in (*folder_suffixes(kind), *LIST_SUFFIXES) or (
        is_one_word and "*" in name and "/" in name
    )


def match_pattern(pattern: str) -> Iterator[str]:
    """Yield the files that match ``pattern``, sorted. ``**`` stands for any number of folders, but no links to folders.

    glob would follow such links, and leave out what it cannot read.

    Raises:
        UsageError: A folder that may hold matches cannot be read.
    """
    drive, path = os.path.splitdrive(pattern)
    root = drive + path[: len(path) - len(path.lstrip(_SEPARATORS))]
    yield from sorted(set(_expand(root, re.split(f"[{re.escape(_SEPARATORS)}]+", path.lstrip(_SEPARATORS)))))


def _expand(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Yield the files in ``folder`` that match ``parts``, a pattern for each level below it."""
    first, *rest = parts
    if first == "**":
        yield from _expand(folder, rest or ["*"])
        for name, is_folder in _list_folder(folder):
            if is_folder and not name.startswith("."):
                yield from _expand(os.path.join(folder, name), parts)  # noqa: PTH118
        return
    for name, is_folder in _match_names(folder, first):
        path = os.path.join(folder, name)  # noqa: PTH118  pathlib is slow for a million
        is_folder = is_folder or os.path.isdir(path)  # noqa: PTH112  or a link to one
        if rest and is_folder:
            yield from _expand(path, rest)
        elif not (rest or is_folder):
            yield path


def _match_names(folder: str, pattern: str) -> list[tuple[str, bool]]:
    if not glob.has_magic(pattern):
        return [(pattern, False)] if os.path.lexists(os.path.join(folder, pattern)) else []  # noqa: PTH118
    listed = [entry for entry in _list_folder(folder) if pattern.startswith(".") or not entry[0].startswith(".")]
    return [entry for entry in listed if fnmatch.fnmatch(entry[0], pattern)]


def _list_folder(folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, and whether each is a folder and no link; an empty path is the current one.

    Raises:
        UsageError: The folder cannot be read.
    """
    try:
        with os.scandir(folder or ".") as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError as exc:
        raise UsageError(f"the folder {folder} cannot be read ({exc.strerror}); name the files in it") from exc


def warn_of_left_out(place: str, counts: Mapping[str, int], suffixes: Sequence[str]) -> None:
    """Log how many files of ``place`` are left out, by their suffixes. ``counts`` has the numbers of all files."""
    others = {suffix or "no suffix": count for suffix, count in sorted(counts.items()) if suffix not in suffixes}
    if others:
        listed = ", ".join(f"{suffix} ({count})" for suffix, count in list(others.items())[:_MAX_SUFFIXES])
        more = ", ..." if len(others) > _MAX_SUFFIXES else ""
        found = "of another kind by their suffixes"
        _LOG.warning("%s: left out %d files %s: %s%s", place, sum(others.values()), found, listed, more)


def name_suffixes(suffixes: Sequence[str]) -> str:
    """Return ``suffixes`` as text. Images have sixty."""
    return ", ".join(suffixes[:_MAX_SUFFIXES]) + (", ..." if len(suffixes) > _MAX_SUFFIXES else "")


@dataclass(frozen=True)
class _InputParser:
    """Opens inputs for a tower of ``kind``; for a text and an image tower if ``kind`` is ``None``."""

    kind: str | None
    column: str

    def open(self, name: str) -> JobInputs:
        if name == STDIN:
            kind = self._check_kind_of_list("standard input")
            return JobInputs(None, lambda: parse_lines(read_lines(sys.stdin.buffer, STDIN), kind=kind))
        mode = _mode(name)
        if mode is None:
            pipe = f"; {_PIPE}" if self.kind in ("text", None) else ""
            refuse_uri(name, f"copy it here, or add --engine ray for {SCHEMES}{pipe}")
            return self._open_pattern(name) if is_pattern(name, self.kind) else self._open_missing(name)
        if stat.S_ISDIR(mode):
            return self._open_folder(name)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{name} is no regular file; pipe it in with the input `-`")
        return self._open_file(name)

    def _open_file(self, path: str) -> JobInputs:
        suffix = file_suffix(path)
        if suffix in LIST_SUFFIXES:
            kind, form = self._check_kind_of_list(path), _LIST_FORMATS[suffix]
            return JobInputs(form.count(path, self.column, kind), partial(form.read, path, self.column, kind), (path,))
        if self.kind == "text":
            way_out = f"give texts as one of {name_suffixes(LIST_SUFFIXES)}; {_PIPE}"
            raise UsageError(f"{path} is a file, but a text is expected; {way_out}")
        return _single(path_item(path))

    def _check_kind_of_list(self, name: str) -> str:
        if self.kind is None:
            raise UsageError(f"{name} can hold texts or paths of images; choose with --tower text or --tower image")
        return self.kind

    def _open_folder(self, folder: str) -> JobInputs:
        suffixes = folder_suffixes(self.kind)
        return self._open_files(f"the folder {folder}", partial(walk_folder, folder), suffixes)

    def _open_pattern(self, pattern: str) -> JobInputs:
        suffixes = pattern_suffixes(pattern, self.kind)
        return self._open_files(f"the pattern {pattern}", partial(match_pattern, pattern), suffixes)

    def _open_files(self, name: str, find_all: Callable[[], Iterator[str]], suffixes: Sequence[str]) -> JobInputs:
        def find() -> Iterator[str]:
            return (path for path in find_all() if file_suffix(path) in suffixes)

        counts = Counter(map(file_suffix, find_all()))
        total = sum(counts[suffix] for suffix in suffixes)
        if not total:
            way_out = _PIPE if self.kind == "text" else "name the files themselves"
            raise UsageError(f"{name} holds no file that ends in {name_suffixes(suffixes)}; {way_out}")
        warn_of_left_out(name, counts, suffixes)
        if suffixes[0] in LIST_SUFFIXES:
            return _join([self._open_file(path) for path in find()])
        return JobInputs(total, lambda: map(path_item, find()))

    def _open_missing(self, name: str) -> JobInputs:
        if self.kind is None and looks_like_image_path(name):
            raise UsageError(f"there is no file {name}; if it is a text, add --tower text")
        if file_suffix(name) in LIST_SUFFIXES or (self.kind in ("text", None) and _looks_like_path(name)):
            raise UsageError(f"there is no file or folder {name}; {_PIPE}")
        return _single(text_item(name) if self.kind in ("text", None) else path_item(name))


def _looks_like_path(name: str) -> bool:
    is_path = file_suffix(name) in _FILE_SUFFIXES or name.startswith(_PATH_STARTS) or name.endswith(("/", os.sep))
    return is_path and len(name.split()) == 1


def _single(source: SourceItem) -> JobInputs:
    return JobInputs(1, lambda: iter((source,)))


def _join(groups: Sequence[JobInputs]) -> JobInputs:
    totals = [group.total for group in groups]
    total = None if None in totals else sum(filter(None, totals))
    lists = tuple(path for group in groups for path in group.lists)
    return JobInputs(total, lambda: chain.from_iterable(groups), lists)


def _mode(name: str) -> int | None:
    """Return the mode of a file or folder; ``None`` if there is none. A long text is not a valid file name."""
    try:
        return os.stat(name).st_mode  # noqa: PTH116  pathlib would normalize "a//b"
    except (OSError, ValueError):
        return None


def walk_folder(folder: str) -> Iterator[str]:
    """Yield the files below ``folder`` that are not hidden, sorted by name in each folder.

    Only one folder's names are in memory.
    """
    for name, is_folder in _list_folder(folder):
        path = os.path.join(folder, name)  # noqa: PTH118  pathlib is slow for a million
        if name.startswith("."):
            continue
        if is_folder:
            yield from walk_folder(path)
        else:
            yield path
