"""Vectors on disk while their job runs: appended, cut back, read by chunks, and at last a .npy file as they stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Float32Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
HEADER_BYTES = 128  # left free at the beginning, so that the header of a .npy file can be put there without a copy


class Spool:
    """Rows of float32, little-endian, after :data:`HEADER_BYTES`."""

    def __init__(self, path: Path, dim: int) -> None:
        """Opens the file at ``path``, or makes it; its rows have ``dim`` values.

        Raises:
            OSError: It cannot be opened.
        """
        self.path, self.dim = path, dim
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def holds(self, rows: int) -> bool:
        """Tells whether at least so many rows are there whole."""
        return os.fstat(self._descriptor).st_size >= self._end(rows)

    def cut(self, rows: int) -> None:
        """Drops what lies behind ``rows`` rows; the next are appended there."""
        os.ftruncate(self._descriptor, self._end(rows))
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def append(self, vectors: Float32Array) -> None:
        """Writes ``[rows, dim]`` at the end; what is written of them when it fails is dropped by :meth:`cut`.

        Raises:
            OSError: The disk is full, say.
        """
        write_all(self._descriptor, np.ascontiguousarray(vectors, dtype="<f4").tobytes())

    def sync(self) -> None:
        """Returns when the disk has what was written."""
        os.fsync(self._descriptor)

    def read(self, start: int, stop: int) -> Float32Array:
        """Returns the rows from ``start`` up to ``stop``; not mapped, so that memory is seen to stay bounded."""
        count, offset = (stop - start) * self.dim, self._end(start)
        return np.fromfile(self.path, dtype="<f4", count=count, offset=offset).reshape(stop - start, self.dim)

    def make_npy(self, rows: int) -> None:
        """Makes the file a .npy file of ``rows`` rows."""
        self.cut(rows)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, npy_header(np.dtype("<f4"), (rows, self.dim)))
        self.sync()

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def _end(self, rows: int) -> int:
        return HEADER_BYTES + rows * self.dim * 4


def write_all(descriptor: int, data: bytes) -> None:
    """Writes ``data`` without a buffer of its own that a failure would leave behind.

    Raises:
        OSError: The disk is full, say.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def npy_header(dtype: np.dtype[Any], shape: tuple[int, int]) -> bytes:
    """Returns the beginning of a .npy file of a C-ordered array, of :data:`HEADER_BYTES` always.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    head = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    document = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    return head + repr(document).encode().ljust(HEADER_BYTES - 11) + b"\n"
