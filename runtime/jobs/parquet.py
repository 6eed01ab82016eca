"""Read one column of a ``.parquet`` file in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.errors import UsageError, needs_extra, one_line
from runtime.jobs.items import SourceItem, Unreadable, listed_item

_BATCH_ROWS = 256  # about 50 MB of image bytes
_BUFFER_BYTES = 1 << 20  # of each column; a row group of images may take gigabytes
_STRINGS = ("string", "large_string", "string_view")
_BINARIES = ("binary", "large_binary", "binary_view")


def import_parquet() -> Any:
    """Import and return ``pyarrow.parquet``.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    with needs_extra("parquet", "a .parquet file"):
        import pyarrow.parquet
    return pyarrow.parquet


def open_parquet(file: Any, name: str) -> Any:
    """Open a path or an open file, which errors call ``name``.

    Raises:
        UsageError: It cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        return parquet_file(file)
    except (OSError, ValueError, NotImplementedError) as exc:  # pyarrow raises all of these
        raise UsageError(
            f"{name} cannot be read as parquet ({one_line(exc)}); write it again, or leave it out"
        ) from exc


def parquet_file(file: Any) -> Any:
    """Return a ``ParquetFile`` that keeps one batch in memory, however large its row groups are.

    Raises:
        OSError: The file cannot be read.
        pyarrow.ArrowException: It is not parquet.
        MissingDependencyError: pyarrow is not installed.
    """
    # By default, pyarrow holds each byte that it has read until the file is closed.
    return import_parquet().ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def count_rows(path: str, column: str, kind: str) -> int:
    """Check that a file has ``column`` for items of ``kind``, and return its number of rows, including nulls.

    Raises:
        UsageError: The file cannot be read, or see :func:`check_column`.
    """
    with open_parquet(path, path) as file:
        check_column(file.schema_arrow, path, column, kind)
        return int(file.metadata.num_rows)


def read_column(path: str, column: str, kind: str) -> Iterator[SourceItem]:
    """Yield the item of each row. Its place is ``path:row``, counted from 1 like lines.

    Raises:
        UsageError: The file is damaged.
    """
    with open_parquet(path, path) as file:
        try:
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=[column])
            for row, scalar in enumerate((scalar for batch in batches for scalar in batch.column(0)), 1):
                yield row_item(scalar, column, kind, f"{path}:{row}")
        except (OSError, ValueError) as exc:  # pyarrow raises both
            raise UsageError(f"{path} is damaged ({one_line(exc)}); write it again") from exc


def row_item(scalar: Any, column: str, kind: str, place: str) -> SourceItem:
    """Return the item of a pyarrow scalar in ``column``, of a type that :func:`check_column` accepts."""
    try:
        value = scalar.as_py()
    except UnicodeDecodeError as exc:
        return listed_item(Unreadable(f"the string is not UTF-8 ({exc.reason})"), kind, place)
    name = place
    if isinstance(value, dict):
        name = value.get("path") or place
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return SourceItem(name, value, place)
    return listed_item(Unreadable(f"{column!r} is null") if value is None else value, kind, place)


def check_column(schema: Any, path: str, column: str, kind: str) -> None:
    """Check that ``schema`` has ``column``, of a type that holds items of ``kind``.

    A column holds strings. A column of images may also hold the bytes of image files, or ``{bytes, path}`` as Hugging
    Face's datasets write it.

    Raises:
        UsageError: There is no such column, there are several, or it has another type.
    """
    if column not in schema.names:
        raise UsageError(
            f"{path} has no column {column!r}, only {', '.join(schema.names)}; choose one of these with --column"
        )
    if schema.names.count(column) > 1:
        raise UsageError(f"{path} has {schema.names.count(column)} columns {column!r}; rename all but one")
    column_type = schema.field(column).type
    accepted = _STRINGS if kind != "image" else (*_STRINGS, *_BINARIES)
    value_type = getattr(column_type, "value_type", column_type) if "dictionary" in str(column_type) else column_type
    if str(value_type) not in accepted and not (kind == "image" and _is_image_struct(column_type)):
        expected = "strings, image bytes or {bytes, path}" if kind == "image" else "strings"
        raise UsageError(f"{path} has {column_type} in column {column!r}, but {expected} are expected")


def _is_image_struct(column_type: Any) -> bool:
    fields = {field.name: str(field.type) for field in column_type} if str(column_type).startswith("struct<") else {}
    return fields.get("bytes") in _BINARIES and fields.get("path", "string") in _STRINGS
