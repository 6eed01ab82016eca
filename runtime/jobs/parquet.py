"""One column of a ``.parquet`` file, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.errors import MissingDependencyError, UsageError, one_line
from runtime.jobs.items import Source, Unreadable, cell_source

_ROWS = 256  # of image bytes, these are some 50 MB
_STRINGS = ("string", "large_string", "string_view")
_BINARIES = ("binary", "large_binary", "binary_view")


def import_parquet() -> Any:
    """Returns the module ``pyarrow.parquet``.

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
    """A column of a file whose values are texts, paths or images.

    Attributes:
        rows: Number of rows, nulls included.
    """

    def __init__(self, path: str, column: str, kind: str) -> None:
        """Reads the file's schema.

        Args:
            path: The file.
            column: Name of the column: of strings; or, for images, of image files' bytes, or of ``{bytes, path}`` as
                Hugging Face's datasets write them.
            kind: What the tower embeds: ``text``, ``image`` or ``mesh``.

        Raises:
            UsageError: The file cannot be read, or has no such column, or one of another type.
            MissingDependencyError: pyarrow is not installed.
        """
        self._path, self._column, self._kind = path, column, kind
        with _open(path) as file:
            self.rows = int(file.metadata.num_rows)
            check_column(file.schema_arrow, path, column, kind)

    def read(self) -> Iterator[Source]:
        """Yields each row; its place is ``path:row``, from 1 as lines are."""
        for row, scalar in enumerate(self._scalars(), 1):
            yield row_source(scalar, self._column, self._kind, f"{self._path}:{row}")

    def _scalars(self) -> Iterator[Any]:
        with _open(self._path) as file:
            batches = file.iter_batches(batch_size=_ROWS, columns=[self._column])
            while True:
                try:
                    batch = next(batches, None)
                except (OSError, ValueError) as exc:  # pyarrow's errors are both
                    raise UsageError(f"{self._path} is damaged ({one_line(exc)}); write it again") from exc
                if batch is None:
                    return
                yield from batch.column(0)


def row_source(scalar: Any, column: str, kind: str, place: str) -> Source:
    """Returns the source of a row, from what ``column`` has there: a pyarrow scalar of a type that is checked."""
    try:
        value = scalar.as_py()
    except UnicodeDecodeError as exc:
        return cell_source(Unreadable(f"the string is not UTF-8 ({exc.reason})"), kind, place)
    name = place
    if isinstance(value, dict):
        name = value.get("path") or place
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return Source(name, value, place)
    return cell_source(Unreadable(f"{column!r} is null") if value is None else value, kind, place)


def _open(path: str) -> Any:
    parquet = import_parquet()
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as exc:  # pyarrow's errors are both
        raise UsageError(f"{path} cannot be read as parquet ({one_line(exc)})") from exc


def check_column(schema: Any, path: str, column: str, kind: str) -> None:
    """Raises :class:`UsageError` unless the column is there and of a type that a tower of ``kind`` takes."""
    if column not in schema.names:
        raise UsageError(f"{path} has no column {column!r}, but {', '.join(schema.names)}; name one by --column")
    column_type = schema.field(column).type
    taken = _STRINGS if kind != "image" else (*_STRINGS, *_BINARIES)
    value_type = getattr(column_type, "value_type", column_type) if "dictionary" in str(column_type) else column_type
    if str(value_type) not in taken and not (kind == "image" and _is_image_struct(column_type)):
        wanted = "strings, image bytes or {bytes, path}" if kind == "image" else "strings"
        raise UsageError(f"{path} has {column_type} in column {column!r}, where {wanted} are expected")


def _is_image_struct(column_type: Any) -> bool:
    fields = {field.name: str(field.type) for field in column_type} if str(column_type).startswith("struct<") else {}
    return fields.get("bytes") in _BINARIES and fields.get("path", "string") in _STRINGS
