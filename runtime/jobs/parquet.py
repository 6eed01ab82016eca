"""Read one column of a ``.parquet`` file in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.errors import MissingDependencyError, UsageError, one_line
from runtime.jobs.items import SourceItem, Unreadable, listed_item

_BATCH_ROWS = 256  # about 50 MB of image bytes
_STRINGS = ("string", "large_string", "string_view")
_BINARIES = ("binary", "large_binary", "binary_view")


def import_parquet() -> Any:
    """Import and return ``pyarrow.parquet``.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as exc:
        raise MissingDependencyError(
            ".parquet files need pyarrow, which is not installed; pip install 'embedding-backbones[parquet]'"
        ) from exc
    return pyarrow.parquet


class ParquetColumn:
    """A column of texts, paths or images.

    Attributes:
        rows: Number of rows, including nulls.
    """

    def __init__(self, path: str, column: str, kind: str) -> None:
        """Read and check the schema of the file.

        Args:
            path: The file.
            column: Name of a column of strings. A column of images may also hold the bytes of image files, or
                ``{bytes, path}`` as Hugging Face's datasets write it.
            kind: Kind of item: ``text``, ``image`` or ``mesh``.

        Raises:
            UsageError: The file cannot be read, has no such column, or the column has another type.
            MissingDependencyError: pyarrow is not installed.
        """
        self._path, self._column, self._kind = path, column, kind
        with _open(path) as file:
            self.rows = int(file.metadata.num_rows)
            check_column(file.schema_arrow, path, column, kind)

    def read(self) -> Iterator[SourceItem]:
        """Yield the item of each row. Its place is ``path:row``, counted from 1 like lines."""
        for row, scalar in enumerate(self._scalars(), 1):
            yield row_item(scalar, self._column, self._kind, f"{self._path}:{row}")

    def _scalars(self) -> Iterator[Any]:
        with _open(self._path) as file:
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=[self._column])
            while True:
                try:
                    batch = next(batches, None)
                except (OSError, ValueError) as exc:  # pyarrow raises both
                    raise UsageError(f"{self._path} is damaged ({one_line(exc)}); write it again") from exc
                if batch is None:
                    return
                yield from batch.column(0)


def row_item(scalar: Any, column: str, kind: str, place: str) -> SourceItem:
    """Return the item of a row.

    Args:
        scalar: The pyarrow scalar in ``column``, of a type that :func:`check_column` accepts.
        column: Name of the column.
        kind: Kind of item.
        place: The file and row.
    """
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


def _open(path: str) -> Any:
    parquet = import_parquet()
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as exc:  # pyarrow raises both
        raise UsageError(f"{path} cannot be read as parquet ({one_line(exc)}); write it again") from exc


def check_column(schema: Any, path: str, column: str, kind: str) -> None:
    """Check that ``schema`` has ``column``, of a type that holds items of ``kind``.

    Raises:
        UsageError: There is no such column, or it has another type.
    """
    if column not in schema.names:
        raise UsageError(
            f"{path} has no column {column!r}, only {', '.join(schema.names)}; choose one of these with --column"
        )
    column_type = schema.field(column).type
    accepted = _STRINGS if kind != "image" else (*_STRINGS, *_BINARIES)
    value_type = getattr(column_type, "value_type", column_type) if "dictionary" in str(column_type) else column_type
    if str(value_type) not in accepted and not (kind == "image" and _is_image_struct(column_type)):
        expected = "strings, image bytes or {bytes, path}" if kind == "image" else "strings"
        raise UsageError(f"{path} has {column_type} in column {column!r}, but {expected} are expected")


def _is_image_struct(column_type: Any) -> bool:
    fields = {field.name: str(field.type) for field in column_type} if str(column_type).startswith("struct<") else {}
    return fields.get("bytes") in _BINARIES and fields.get("path", "string") in _STRINGS
