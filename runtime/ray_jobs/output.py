"""Write the output of a Ray job: a folder with a parquet file per shard. It appears complete, or not at all."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import fs, parquet

from runtime.array_types import Array, Float32Array
from runtime.atomic_write import find_leftovers, finish_replacement, partial_path, replace_folder, replacing
from runtime.errors import OutputError, UsageError, one_line
from runtime.jobs.origin import VectorOrigin
from runtime.ray_jobs.storage import STORAGE_ERRORS, absolute, join, open_place
from runtime.uris import is_uri, public_name

_LOG = logging.getLogger("runtime")
SUCCESS = "_SUCCESS"  # the marker of Hadoop and Spark, which readers of parquet skip
OWN_COLUMNS = ("source_file", "source_row", "error", "embedding")
_PART = re.compile(r"part-\d{6,}\.parquet")
_PARTIAL = re.compile(r"_partial-[0-9a-f]{8}")  # readers of parquet leave names with an underscore out


def part_name(number: int) -> str:
    """Return the file name of a shard's part. Sorted names are in the order of the input."""
    return f"part-{number:06}.parquet"


def part_schema(carried: pa.Schema, dimensions: int, *, errors: bool, origin: VectorOrigin | None = None) -> pa.Schema:
    """Return the schema of all parts: the origin of a row, the columns of the input, and the vector.

    ``carried`` are the columns of the input. With ``errors``, there is a column of errors for rows without a vector.
    The metadata holds ``origin``, the record of how the vectors were made.

    Raises:
        UsageError: A column of the input has the name of a column that the job adds.
    """
    taken = [name for name in carried.names if name in OWN_COLUMNS]
    if taken:
        raise UsageError(f"the input's column {taken[0]} is also a column that the output adds; rename it first")
    fields = [pa.field("source_file", pa.string()), pa.field("source_row", pa.int64()), *carried]
    fields += [pa.field("error", pa.string())] if errors else []
    fields += [pa.field("embedding", pa.list_(pa.float32(), dimensions))]
    return pa.schema(fields, metadata=origin.to_text() if origin else None)


def vector_column(vectors: Float32Array, kept: Array, rows: int) -> pa.Array:
    """Return a column of ``rows`` vectors: ``vectors[i]`` in row ``kept[i]``, and null elsewhere."""
    dense = np.zeros((rows, vectors.shape[1]), dtype=np.float32)
    dense[kept] = vectors
    missing = np.ones(rows, dtype=bool)
    missing[kept] = False
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(dense.reshape(-1)), vectors.shape[1], mask=mask)


def write_part(folder: str, number: int, table: pa.Table) -> None:
    """Write one part atomically. A repeated shard replaces it with the same rows.

    Raises:
        OutputError: The folder does not exist, the disk is full, or a store refuses the part.
    """
    place = join(folder, part_name(number))
    file_system, path = open_place(place)
    # Object stores write atomically.
    target: AbstractContextManager[str | Path] = nullcontext(path) if is_uri(folder) else replacing(Path(path))
    try:
        with target as partial:
            parquet.write_table(table, str(partial), filesystem=file_system)
    except STORAGE_ERRORS as exc:
        way_out = "free some disk space, or name a folder that all machines share"
        if is_uri(folder):
            way_out = "check that each machine has the right to write there"
        raise OutputError(f"cannot write {public_name(place)} ({one_line(exc)}); {way_out}") from exc


class OutputFolder:
    """The folder for the parts of one job.

    Attributes:
        place: The temporary folder that workers write to: beside the output, or in it if it is a URI.
    """

    def __init__(self, output: str, *, force: bool) -> None:
        """Create the folder. With ``force``, :meth:`publish` replaces the output of an earlier job.

        Raises:
            OutputError: The output exists, or the folder cannot be created.
        """
        self.output = output
        self._force = force
        self._final = Path(absolute(output))
        try:
            if not is_uri(output):
                finish_replacement(self._final)
            _check_free(output, force=force)
            _warn_of_leftovers(output)
            if is_uri(output):
                self.place = join(output, f"_partial-{secrets.token_hex(4)}")
                file_system, path = open_place(self.place)
                file_system.create_dir(path, recursive=True)
            else:
                partial = partial_path(self._final)
                partial.mkdir()
                self.place = str(partial)
        except STORAGE_ERRORS as exc:
            shown = public_name(output)
            raise OutputError(f"cannot create the output {shown} ({one_line(exc)}); name another place") from exc

    def publish(self, parts: int) -> None:
        """Move the complete output of ``parts`` files to its place. If that fails, they stay where they are.

        An object store cannot move them at once, so the folder of a URI loses its marker first and gets it back last.

        Raises:
            OutputError: A part is missing, which discards the others. Or the output exists by now, or cannot be moved.
            KeyboardInterrupt: The message tells where the parts are.
        """
        place, output = public_name(self.place), public_name(self.output)
        kept = f"the parts are in {place}, and those that were moved in {output}"
        try:
            missing = {part_name(number) for number in range(parts)} - set(_names(self.place) or ())
            if missing:
                self.discard()
                found = f"{min(missing)} is not in {place}, where a worker wrote it"
                raise OutputError(f"{found}; name an output that all machines of the cluster share")
            self._check_still_free()
            if is_uri(self.output):
                self._move_parts()
            else:
                self._replace()
        except STORAGE_ERRORS as exc:
            way_out = "move them yourself, or run the job again with another output"
            raise OutputError(f"cannot move the output to {output} ({one_line(exc)}); {kept}; {way_out}") from exc
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted while the output was moved; {kept}") from None

    def _check_still_free(self) -> None:
        try:
            _check_free(self.output, force=self._force)
        except OutputError as exc:
            raise OutputError(f"{exc}; the parts of this job stay in {public_name(self.place)}") from None

    def _move_parts(self) -> None:
        file_system, path = open_place(self.output)
        _, partial = open_place(self.place)
        children = file_system.get_file_info(fs.FileSelector(path))
        left = {child.base_name: child for child in children if not _PARTIAL.fullmatch(child.base_name)}
        if marker := left.pop(SUCCESS, None):
            file_system.delete_file(marker.path)
        for part in file_system.get_file_info(fs.FileSelector(partial)):
            if _PART.fullmatch(part.base_name):
                _move(file_system, part.path, f"{path.rstrip('/')}/{part.base_name}")
                left.pop(part.base_name, None)
        for child in left.values():
            remove = file_system.delete_dir if child.type == fs.FileType.Directory else file_system.delete_file
            remove(child.path)
        file_system.delete_dir(partial)
        file_system.open_output_stream(f"{path.rstrip('/')}/{SUCCESS}").close()

    def _replace(self) -> None:
        partial = Path(self.place)
        for path in partial.iterdir():
            if not _PART.fullmatch(path.name):  # a killed worker left it
                path.unlink()
        replace_folder(partial, self._final)

    def discard(self) -> None:
        """Remove the parts of an output that was not published."""
        if is_uri(self.output):
            file_system, path = open_place(self.place)
            with suppress(*STORAGE_ERRORS):
                file_system.delete_dir(path)
        else:
            # A worker may still write, and a folder that gets a file meanwhile is not removed. It writes by this name.
            removed = Path(self.place).with_suffix(".removed")
            with suppress(OSError):
                Path(self.place).rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def _move(file_system: fs.FileSystem, source: str, target: str) -> None:
    try:
        file_system.move(source, target)
    except NotImplementedError:  # Azure without a hierarchical namespace: https://github.com/apache/arrow/issues/40405
        file_system.copy_file(source, target)
        file_system.delete_file(source)


def _check_free(output: str, *, force: bool) -> None:
    names = [name for name in _names(output) or () if not (is_uri(output) and _PARTIAL.fullmatch(name))]
    foreign = [name for name in names if name != SUCCESS and not (_PART.fullmatch(name) or _PARTIAL.fullmatch(name))]
    shown = public_name(output)
    if foreign:
        raise OutputError(f"the output {shown} holds {foreign[0]}, which is not from a job; name another place")
    if names and not force:
        raise OutputError(f"the output {shown} exists; name another place, or replace it with --force")


def _warn_of_leftovers(output: str) -> None:
    """Log the folders of killed jobs. One of them may be of a job that runs on another machine."""
    if is_uri(output):
        left = [public_name(join(output, name)) for name in _names(output) or () if _PARTIAL.fullmatch(name)]
    else:
        left = [str(path) for path in find_leftovers(Path(absolute(output)), "old", "partial", "removed")]
    for place in left:
        _LOG.warning("%s is left of a killed job; remove it, unless another job writes this output now", place)


def _names(place: str) -> list[str] | None:
    """Return the names in a folder; ``None`` if there is no folder."""
    file_system, path = open_place(place)
    info = file_system.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        return None
    if info.type == fs.FileType.File:
        raise OutputError(f"the output {public_name(place)} is a file; name a folder")
    return [child.base_name for child in file_system.get_file_info(fs.FileSelector(path))]
