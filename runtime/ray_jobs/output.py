"""The output of a job: a folder of parquet, a part for each piece, that appears complete or not at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import OutputError, UsageError
from runtime.ray_jobs.storage import absolute, is_uri, join, open_place, public_name

if TYPE_CHECKING:
    import pyarrow as pa

    from runtime.array_types import Float32Array as Vectors

SUCCESS = "_SUCCESS"  # the marker that Hadoop and Spark write, and that readers of parquet pass over
OWN_COLUMNS = ("source_file", "source_row", "error", "embedding")
_PART = re.compile(r"part-\d{6,}\.parquet")


def part_name(number: int) -> str:
    """Returns the name of a piece's part; in the order of names, parts are in the order of the input."""
    return f"part-{number:06}.parquet"


def part_schema(carried: pa.Schema, dimensions: int, *, errors: bool) -> pa.Schema:
    """Returns the columns of every part: where a row is from, what it carries, and its vector.

    Args:
        carried: Columns from the input.
        dimensions: Length of a vector.
        errors: Whether rows without a vector stay, and say why.

    Raises:
        UsageError: The input has a column by the name of one of these.
    """
    import pyarrow as pa

    taken = [name for name in carried.names if name in OWN_COLUMNS]
    if taken:
        raise UsageError(f"the input's column {taken[0]} is one that the output adds; rename it first")
    fields = [pa.field("source_file", pa.string()), pa.field("source_row", pa.int64()), *carried]
    fields += [pa.field("error", pa.string())] if errors else []
    return pa.schema([*fields, pa.field("embedding", pa.list_(pa.float32(), dimensions))])


def vector_column(vectors: Vectors, kept: np.ndarray[Any, Any], rows: int) -> pa.Array:
    """Returns ``rows`` vectors, null where ``kept``, the indices of ``vectors``, has none."""
    import pyarrow as pa

    dense = np.zeros((rows, vectors.shape[1]), dtype=np.float32)
    dense[kept] = vectors
    missing = np.ones(rows, dtype=bool)
    missing[kept] = False
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(dense.reshape(-1)), vectors.shape[1], mask=mask)


def write_part(folder: str, number: int, table: pa.Table) -> None:
    """Writes one part, at once and under a name of its own: whoever writes it again replaces it by the same.

    Raises:
        OutputError: The folder is not there, or is full.
    """
    from pyarrow import parquet

    place = join(folder, part_name(number))
    file_system, path = open_place(place)
    partial = path if is_uri(folder) else f"{path}.{os.getpid()}.partial"  # objects of a store appear when complete
    try:
        parquet.write_table(table, partial, filesystem=file_system)
        if partial != path:
            Path(partial).replace(path)
    except OSError as exc:
        raise OutputError(
            f"cannot write {public_name(place)} ({exc}); let there be space, and name a folder that all machines share"
        ) from exc


class PartFolder:
    """Where the parts of one job go.

    Attributes:
        place: Where the workers write: a folder beside the output, or the output itself where that is a URI.
    """

    def __init__(self, output: str, *, force: bool) -> None:
        """Makes the folder.

        Args:
            output: The output, a path or a URI.
            force: Whether to replace an output of an earlier job.

        Raises:
            OutputError: There is something already, or the folder cannot be made.
        """
        self.output = output
        self._final = Path(absolute(output))
        _check_free(output, force=force)
        try:
            self.place = output if is_uri(output) else self._make_partial()
            if is_uri(output):
                _empty(output)
        except OSError as exc:
            raise OutputError(f"cannot make the output {public_name(output)} ({exc}); name another place") from exc

    def _make_partial(self) -> str:
        partial = self._final.with_name(f".{self._final.name}.{os.getpid()}.partial")
        partial.mkdir()
        return str(partial)

    def publish(self, parts: int) -> None:
        """Lets the output appear, all at once; a URI gets its marker.

        Raises:
            OutputError: A part is missing, or the output cannot be put in its place.
        """
        missing = {part_name(number) for number in range(parts)} - set(_names(self.place) or ())
        if missing:
            raise OutputError(
                f"{min(missing)} is not in {public_name(self.place)}, where a worker wrote it; name an output that all "
                "machines of the cluster share"
            )
        try:
            if is_uri(self.output):
                file_system, path = open_place(join(self.output, SUCCESS))
                file_system.open_output_stream(path).close()
            else:
                self._swap()
        except OSError as exc:
            raise OutputError(f"cannot put {self.output} in its place ({exc}); name another place") from exc

    def _swap(self) -> None:
        partial = Path(self.place)
        for path in partial.iterdir():
            if not _PART.fullmatch(path.name):  # what a killed worker left
                path.unlink()
        old = partial.with_suffix(".old")
        if self._final.exists():
            self._final.rename(old)
        partial.rename(self._final)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Removes what is there of an output that was not published."""
        if is_uri(self.output):
            _empty(self.output)
        else:
            shutil.rmtree(self.place, ignore_errors=True)


def _check_free(output: str, *, force: bool) -> None:
    names = _names(output)
    if names is None:
        return
    foreign = [name for name in names if name != SUCCESS and not _PART.fullmatch(name)]
    if foreign:
        raise OutputError(
            f"the output {public_name(output)} holds {foreign[0]}, which no job wrote; name another place"
        )
    if names and not force:
        raise OutputError(f"the output {public_name(output)} exists; name another place, or replace it by force")


def _names(place: str) -> list[str] | None:
    """Returns what is in a folder, ``None`` where there is none."""
    from pyarrow import fs

    file_system, path = open_place(place)
    info = file_system.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        return None
    if info.type == fs.FileType.File:
        raise OutputError(f"the output {public_name(place)} is a file; name a folder")
    return [child.base_name for child in file_system.get_file_info(fs.FileSelector(path))]


def _empty(place: str) -> None:
    file_system, path = open_place(place)
    file_system.create_dir(path, recursive=True)
    file_system.delete_dir_contents(path)
