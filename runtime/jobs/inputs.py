"""The words of the command line as one stream of sources: ordered, the same every time, read as it is needed."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from runtime.errors import UsageError
from runtime.jobs.items import Source, cell_source, path_source, text_source
from runtime.jobs.parquet import ParquetColumn
from runtime.jobs.text_files import Cell, count_lines, find_strings, read_file_lines, read_lines, without_blanks
from runtime.preprocess.files import IMAGE_SUFFIXES, looks_like_image_path

STDIN = "-"
_COLUMNED = (".jsonl", ".parquet")
_LISTS = (".txt", *_COLUMNED)
_PIPE = "to embed the words themselves, pipe them in and name `-`, an item a line"


@dataclass(frozen=True)
class Inputs:
    """What a command line asks to be embedded.

    Attributes:
        total: Number of items, or None where it takes reading them to know; blank lines may be counted that are none.
        lists: The files among them that hold items, rather than being one.
    """

    total: int | None
    lists: tuple[str, ...]
    _groups: tuple[_Group, ...]

    def __iter__(self) -> Iterator[Source]:
        return chain.from_iterable(group.read() for group in self._groups)


@dataclass(frozen=True)
class _Group:
    """What one word stands for."""

    total: int | None
    read: Callable[[], Iterator[Source]]
    lists: tuple[str, ...] = ()


def open_inputs(words: Sequence[str], *, towers: Sequence[str], column: str | None = None) -> Inputs:
    """Returns the items that ``words`` name, in order; opens what is needed to check and count them.

    - A file of images or meshes is an item. ``.txt`` holds an item a line, ``.jsonl`` and ``.parquet`` one a row, in a
      column: a text, or the path of a file as seen from the current folder. ``-`` is standard input, read as ``.txt``.
    - A folder stands for the files in it and below that the tower reads, sorted; hidden ones are left out, and links to
      folders are not followed. So does a pattern that the shell did not expand, ``**`` included.
    - A blank line of a ``.txt`` is an empty text, so that rows keep the numbers of lines; among paths it is left out.
    - To a text tower, a word that is no file is itself a text. With two towers, a file is an image, and another word
      a text; what is listed in files can then be either, so ``--tower`` has to say.

    Args:
        words: The words.
        towers: The towers that are loaded.
        column: The column of ``.jsonl`` and ``.parquet`` files; by default named as the tower: ``text``, say.

    Raises:
        UsageError: A word cannot be what it seems to be.
        MissingDependencyError: There is a ``.parquet`` file, and no pyarrow.
    """
    if words.count(STDIN) > 1:
        raise UsageError(f"{STDIN} is named {words.count(STDIN)} times, and standard input can be read once")
    kind = towers[0] if len(towers) == 1 else None
    reader = _WordReader(kind, column or kind or "")
    groups = tuple(reader.open_word(word) for word in words)
    lists = tuple(chain.from_iterable(group.lists for group in groups))
    if column and not any(_suffix(path) in _COLUMNED for path in lists):
        raise UsageError(f"--column {column} names a column of .jsonl and .parquet files, and there is none")
    return Inputs(_sum(group.total for group in groups), lists, groups)


@dataclass(frozen=True)
class _WordReader:
    """Reads words for a tower of one kind, or for a text and an image tower where ``kind`` is None."""

    kind: str | None
    column: str

    def open_word(self, word: str) -> _Group:
        if word == STDIN:
            self._check_listable("standard input")
            return _Group(None, lambda: self._lines(read_lines(sys.stdin.buffer, STDIN)))
        mode = _mode(word)
        if mode is None:
            return self._open_pattern(word) if self._is_pattern(word) else self._open_missing(word)
        if stat.S_ISDIR(mode):
            return self._open_folder(word)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{word} is no regular file; pipe it in and name `-`")
        return self._open_file(word)

    def _open_file(self, path: str) -> _Group:
        suffix = _suffix(path)
        if suffix in _LISTS:
            return self._open_list(path, suffix)
        if self.kind == "text":
            raise UsageError(
                f"{path} is a file, where a text is expected; give texts as .txt (one a line), .jsonl or .parquet; "
                f"{_PIPE}"
            )
        return _single(path_source(path))

    def _open_list(self, path: str, suffix: str) -> _Group:
        self._check_listable(path)
        if suffix == ".parquet":
            column = ParquetColumn(path, self.column, self.kind or "")
            return _Group(column.rows, column.read, (path,))
        read = self._json_lines if suffix == ".jsonl" else self._lines
        return _Group(count_lines(path), lambda: read(read_file_lines(path)), (path,))

    def _check_listable(self, name: str) -> None:
        if self.kind is None:
            raise UsageError(f"{name} can hold texts or paths of images; say which by --tower text or --tower image")

    def _lines(self, cells: Iterable[Cell]) -> Iterator[Source]:
        return self._sources(cells if self.kind == "text" else without_blanks(cells))

    def _json_lines(self, cells: Iterable[Cell]) -> Iterator[Source]:
        return self._sources(find_strings(without_blanks(cells), self.column))

    def _sources(self, cells: Iterable[Cell]) -> Iterator[Source]:
        return (cell_source(value, self.kind or "", place) for place, value in cells)

    def _open_folder(self, folder: str) -> _Group:
        return self._open_files(f"the folder {folder}", partial(_walk, folder, self._suffixes()))

    def _open_pattern(self, pattern: str) -> _Group:
        suffixes = (_suffix(pattern),) if _suffix(pattern) in _LISTS else self._suffixes()
        return self._open_files(f"the pattern {pattern}", partial(_match, pattern, suffixes), suffixes)

    def _open_files(self, name: str, find: Callable[[], Iterator[str]], suffixes: Sequence[str] = ()) -> _Group:
        suffixes = suffixes or self._suffixes()
        if suffixes[0] in _LISTS:
            groups = tuple(self._open_file(path) for path in find())
            count, lists = _sum(group.total for group in groups), tuple(path for each in groups for path in each.lists)
            group = _Group(count, lambda: chain.from_iterable(each.read() for each in groups), lists)
            found = bool(groups)
        else:
            group = _Group(sum(1 for _ in find()), lambda: map(path_source, find()))
            found = bool(group.total)
        if not found:
            way_out = _PIPE if self.kind == "text" else "name the files themselves"
            raise UsageError(f"{name} holds no file that ends in {', '.join(suffixes)}; {way_out}")
        return group

    def _suffixes(self) -> tuple[str, ...]:
        if self.kind == "text":
            return _LISTS
        if self.kind == "mesh":
            from runtime.preprocess.mesh.formats import FORMATS

            return tuple(FORMATS)
        return IMAGE_SUFFIXES

    def _is_pattern(self, word: str) -> bool:
        """Tells patterns from texts, which may well hold a question mark."""
        if not glob.has_magic(word) or self.kind in ("image", "mesh"):
            return glob.has_magic(word)
        is_one_word = len(word.split()) == 1
        return _suffix(word) in (*self._suffixes(), *_LISTS) or (is_one_word and "*" in word and "/" in word)

    def _open_missing(self, word: str) -> _Group:
        if _suffix(word) in _LISTS:
            raise UsageError(f"there is no file {word}; {_PIPE}")
        if self.kind is None and looks_like_image_path(word):
            raise UsageError(f"there is no file {word}; if it is a text, say so by --tower text")
        return _single(text_source(word) if self.kind in ("text", None) else path_source(word))


def _single(source: Source) -> _Group:
    return _Group(1, lambda: iter((source,)))


def _mode(word: str) -> int | None:
    """Returns the mode of the file or folder of this name, or None: what may be a long text is no name of any."""
    try:
        return os.stat(word).st_mode  # noqa: PTH116  pathlib would make "a//b" of it
    except (OSError, ValueError):
        return None


def _suffix(word: str) -> str:
    return os.path.splitext(word)[1].lower()  # noqa: PTH122  pathlib knows no suffix of "a." or ".txt"


def _sum(totals: Iterable[int | None]) -> int | None:
    known = list(totals)
    return None if None in known else sum(total for total in known if total is not None)


def _walk(folder: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Yields the files below ``folder``, sorted by name within each; holds the names of one folder at a time."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir(follow_symlinks=False) or _suffix(entry.name) in suffixes)
            )
    except OSError as exc:
        raise UsageError(f"the folder {folder} cannot be read ({exc.strerror}); name the files in it") from exc
    for name, is_folder in names:
        path = os.path.join(folder, name)  # noqa: PTH118  pathlib is slow for a million
        if is_folder:
            yield from _walk(path, suffixes)
        else:
            yield path


def _match(pattern: str, suffixes: Sequence[str]) -> Iterator[str]:
    matches = {path for path in glob.iglob(pattern, recursive=True) if _suffix(path) in suffixes}  # noqa: PTH207
    yield from (path for path in sorted(matches) if not os.path.isdir(path))  # noqa: PTH112  cheap for a million
