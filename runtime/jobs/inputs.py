"""Find, check and read the inputs of a job: files, folders, patterns, lists of items, and texts.

The local job reads items with :func:`open_inputs`. The Ray job shares the rules: which files a folder stands for, which
files list items, and what ``--column`` means.
"""

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
from runtime.jobs.items import SourceItem, path_item, text_item
from runtime.jobs.parquet import ParquetColumn
from runtime.jobs.text_files import count_lines, parse_lines, read_file_lines, read_lines
from runtime.preprocess.files import IMAGE_SUFFIXES, looks_like_image_path

STDIN = "-"
COLUMN_SUFFIXES = (".jsonl", ".parquet")
LIST_SUFFIXES = (".txt", *COLUMN_SUFFIXES)
_PIPE = "to embed the words themselves, pipe them in, one item per line, with the input `-`"


@dataclass(frozen=True)
class JobInputs:
    """The items that a user named, in order.

    Attributes:
        total: Number of items; ``None`` if only reading them would tell. It may count blank lines, which are no items.
        lists: The named files that list items.
    """

    total: int | None
    lists: tuple[str, ...]
    _groups: tuple[_ItemGroup, ...]

    def __iter__(self) -> Iterator[SourceItem]:
        return chain.from_iterable(group.read() for group in self._groups)


@dataclass(frozen=True)
class _ItemGroup:
    """The items of one input."""

    total: int | None
    read: Callable[[], Iterator[SourceItem]]
    lists: tuple[str, ...] = ()


def open_inputs(inputs: Sequence[str], *, towers: Sequence[str], column: str | None = None) -> JobInputs:
    """Return the items of ``inputs`` in order. Files are opened only to check and to count them.

    - An image or mesh file is one item. ``.txt`` lists one item per line; ``.jsonl`` and ``.parquet`` list one per row,
      in a column. A listed item is a text, or the path of a file relative to the current folder.
    - ``-`` reads standard input like ``.txt``.
    - A folder stands for all files in it and below that the tower embeds, sorted. Hidden files are left out, and links
      to folders are not followed. A pattern that the shell did not expand works the same way, including ``**``.
    - A blank line of a ``.txt`` is an empty text, so that rows keep the numbers of lines. Among paths it is skipped.
    - For a text tower, an input that is not a file is itself a text. With two towers, a file is an image and any other
      input is a text. A list could then hold either, so ``--tower`` is required.

    Args:
        inputs: The inputs as the user wrote them.
        towers: The loaded towers.
        column: Column of ``.jsonl`` and ``.parquet`` files; by default the name of the tower.

    Raises:
        UsageError: An input does not exist, or is of the wrong kind.
        MissingDependencyError: There is a ``.parquet`` file, and pyarrow is not installed.
    """
    if inputs.count(STDIN) > 1:
        raise UsageError(f"{STDIN} is named {inputs.count(STDIN)} times, but standard input can be read only once")
    kind = towers[0] if len(towers) == 1 else None
    parser = _InputParser(kind, column or kind or "")
    groups = tuple(parser.open(name) for name in inputs)
    lists = tuple(chain.from_iterable(group.lists for group in groups))
    check_column_use(column, lists)
    return JobInputs(_sum(group.total for group in groups), lists, groups)


def check_column_use(column: str | None, files: Iterable[str]) -> None:
    """Check that ``--column`` is given only if one of ``files`` has columns.

    Raises:
        UsageError: No file has columns.
    """
    if column and not any(file_suffix(path) in COLUMN_SUFFIXES for path in files):
        raise UsageError(
            f"--column {column} names a column of .jsonl and .parquet files, but no input is such a file; leave it out"
        )


def item_suffixes(kind: str | None) -> tuple[str, ...]:
    """Return the suffixes of files that are items of ``kind``; images for ``None``, and none for ``text``."""
    if kind == "text":
        return ()
    if kind == "mesh":
        from runtime.preprocess.mesh.formats import FORMATS

        return tuple(FORMATS)
    return IMAGE_SUFFIXES


def file_suffix(name: str) -> str:
    """Return the suffix of a file name or URI in lower case, with its dot; empty if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  pathlib finds no suffix in "a." or ".txt"


def is_pattern(name: str, kind: str | None) -> bool:
    """Return whether ``name`` is a pattern of files. A text may contain a question mark, too."""
    if not glob.has_magic(name) or kind in ("image", "mesh"):
        return glob.has_magic(name)
    is_one_word = len(name.split()) == 1
    return file_suffix(name) in (*item_suffixes(kind), *LIST_SUFFIXES) or (is_one_word and "*" in name and "/" in name)


def match_pattern(pattern: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Yield the files that match ``pattern`` and end in one of ``suffixes``, sorted."""
    matches = {path for path in glob.iglob(pattern, recursive=True) if file_suffix(path) in suffixes}  # noqa: PTH207
    yield from (path for path in sorted(matches) if not os.path.isdir(path))  # noqa: PTH112  cheap for a million


@dataclass(frozen=True)
class _InputParser:
    """Opens inputs for a tower of ``kind``; for a text and an image tower if ``kind`` is ``None``."""

    kind: str | None
    column: str

    def open(self, name: str) -> _ItemGroup:
        if name == STDIN:
            kind = self._check_kind_of_list("standard input")
            return _ItemGroup(None, lambda: parse_lines(read_lines(sys.stdin.buffer, STDIN), kind=kind))
        mode = _mode(name)
        if mode is None:
            return self._open_pattern(name) if is_pattern(name, self.kind) else self._open_missing(name)
        if stat.S_ISDIR(mode):
            return self._open_folder(name)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{name} is no regular file; pipe it in with the input `-`")
        return self._open_file(name)

    def _open_file(self, path: str) -> _ItemGroup:
        suffix = file_suffix(path)
        if suffix in LIST_SUFFIXES:
            return self._open_list(path, suffix)
        if self.kind == "text":
            raise UsageError(
                f"{path} is a file, but a text is expected; give texts as .txt (one per line), .jsonl or .parquet; "
                f"{_PIPE}"
            )
        return _single(path_item(path))

    def _open_list(self, path: str, suffix: str) -> _ItemGroup:
        kind = self._check_kind_of_list(path)
        if suffix == ".parquet":
            parquet = ParquetColumn(path, self.column, kind)
            return _ItemGroup(parquet.rows, parquet.read, (path,))
        column = self.column if suffix == ".jsonl" else None
        return _ItemGroup(
            count_lines(path), lambda: parse_lines(read_file_lines(path), kind=kind, column=column), (path,)
        )

    def _check_kind_of_list(self, name: str) -> str:
        if self.kind is None:
            raise UsageError(f"{name} can hold texts or paths of images; choose with --tower text or --tower image")
        return self.kind

    def _open_folder(self, folder: str) -> _ItemGroup:
        suffixes = self._suffixes()
        return self._open_files(f"the folder {folder}", partial(_walk, folder, suffixes), suffixes)

    def _open_pattern(self, pattern: str) -> _ItemGroup:
        suffixes = (file_suffix(pattern),) if file_suffix(pattern) in LIST_SUFFIXES else self._suffixes()
        return self._open_files(f"the pattern {pattern}", partial(match_pattern, pattern, suffixes), suffixes)

    def _open_files(self, name: str, find: Callable[[], Iterator[str]], suffixes: Sequence[str]) -> _ItemGroup:
        if suffixes[0] in LIST_SUFFIXES:
            groups = tuple(self._open_file(path) for path in find())
            total, lists = _sum(group.total for group in groups), tuple(path for each in groups for path in each.lists)
            group = _ItemGroup(total, lambda: chain.from_iterable(each.read() for each in groups), lists)
            found = bool(groups)
        else:
            group = _ItemGroup(sum(1 for _ in find()), lambda: map(path_item, find()))
            found = bool(group.total)
        if not found:
            way_out = _PIPE if self.kind == "text" else "name the files themselves"
            raise UsageError(f"{name} holds no file that ends in {', '.join(suffixes)}; {way_out}")
        return group

    def _suffixes(self) -> tuple[str, ...]:
        return item_suffixes(self.kind) or LIST_SUFFIXES

    def _open_missing(self, name: str) -> _ItemGroup:
        if file_suffix(name) in LIST_SUFFIXES:
            raise UsageError(f"there is no file {name}; {_PIPE}")
        if self.kind is None and looks_like_image_path(name):
            raise UsageError(f"there is no file {name}; if it is a text, add --tower text")
        return _single(text_item(name) if self.kind in ("text", None) else path_item(name))


def _single(source: SourceItem) -> _ItemGroup:
    return _ItemGroup(1, lambda: iter((source,)))


def _mode(name: str) -> int | None:
    """Return the mode of a file or folder; ``None`` if there is none. A long text is not a valid file name."""
    try:
        return os.stat(name).st_mode  # noqa: PTH116  pathlib would normalize "a//b"
    except (OSError, ValueError):
        return None


def _sum(totals: Iterable[int | None]) -> int | None:
    known = list(totals)
    return None if None in known else sum(total for total in known if total is not None)


def _walk(folder: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Yield the files below ``folder``, sorted by name in each folder. Only one folder's names are in memory."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir(follow_symlinks=False) or file_suffix(entry.name) in suffixes)
            )
    except OSError as exc:
        raise UsageError(f"the folder {folder} cannot be read ({exc.strerror}); name the files in it") from exc
    for name, is_folder in names:
        path = os.path.join(folder, name)  # noqa: PTH118  pathlib is slow for a million
        if is_folder:
            yield from _walk(path, suffixes)
        else:
            yield path
