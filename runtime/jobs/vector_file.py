"""The vectors of an unfinished job on disk: append, truncate, read in chunks, and finish as a .npy file in place."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_types import Float32Array

HEADER_BYTES = 128  # reserved at the start of the file for the header of a .npy file
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)  # Windows would otherwise translate line ends


class VectorFile:
    """Rows of little-endian float32 after :data:`HEADER_BYTES`. Writing raises ``OSError`` if the disk is full."""

    def __init__(self, path: Path, dim: int) -> None:
        """Open or create the file at ``path`` with rows of ``dim`` values."""
        self.path, self.dim = path, dim
        self._descriptor = os.open(path, OPEN_FLAGS, 0o666)

    def holds(self, rows: int) -> bool:
        """Return whether the file has at least ``rows`` complete rows."""
        return not rows or os.fstat(self._descriptor).st_size >= self._end(rows)

    def truncate(self, rows: int) -> None:
        """Drop everything after ``rows`` rows; the next rows are appended there."""
        os.ftruncate(self._descriptor, self._end(rows))
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def append(self, vectors: Float32Array) -> None:
        """Append ``[rows, dim]`` vectors. If it fails, :meth:`truncate` drops the incomplete rows."""
        write_all(self._descriptor, np.ascontiguousarray(vectors, dtype="<f4").tobytes())

    def sync(self) -> None:
        """Wait until the appended rows are on the disk."""
        os.fsync(self._descriptor)

    def read(self, start: int, stop: int) -> Float32Array:
        """Return the rows from ``start`` to ``stop``. They are not memory-mapped, so that memory stays bounded."""
        count, offset = (stop - start) * self.dim, self._end(start)
        return np.fromfile(self.path, dtype="<f4", count=count, offset=offset).reshape(stop - start, self.dim)

    def finish_npy(self, rows: int) -> None:
        """Turn the file into a .npy file of ``rows`` rows, and close it: Windows does not move an open file."""
        self.truncate(rows)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, npy_header(np.dtype("<f4"), (rows, self.dim)))
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor >= 0:
            close_synced(self._descriptor)
            self._descriptor = -1

    def _end(self, rows: int) -> int:
        return HEADER_BYTES + rows * self.dim * 4


def close_synced(descriptor: int) -> None:
    """Close a file. :func:`os.fsync` has reported any error of the data that count; NFS may report another one now."""
    with suppress(OSError):
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write ``data`` unbuffered, so that no buffered rest can be written after a failure."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the .npy header of a C-ordered array, always :data:`HEADER_BYTES` long.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    head = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    document = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    return head + repr(document).encode().ljust(HEADER_BYTES - 11) + b"\n"
