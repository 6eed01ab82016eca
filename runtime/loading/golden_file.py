"""Read the golden items of an artifact. What their file may hold is known from the manifest before it is unpacked."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from runtime.array_types import Array
from runtime.artifact.manifest import GOLDEN_FILE, GOLDEN_ITEMS, MAX_POINTS, Manifest, TowerName
from runtime.errors import IntegrityError

MAX_PIXELS = 2**24  # of one golden image
MAX_CHARACTERS = 2**20  # of one golden text
_MAX_VECTOR_BYTES = 2**26
_Fits = Callable[[tuple[int, ...], "np.dtype[Any]"], bool]


def read_golden(folder: Path, manifest: Manifest, tower: TowerName) -> tuple[list[Any], Array]:
    """Read the golden items, as ``Embedder.embed`` takes them, and their ``[items, output_dim]`` vectors.

    Raises:
        IntegrityError: The file is damaged, or does not have the arrays that the manifest announces.
    """
    path = folder / GOLDEN_FILE
    parity = manifest.towers[tower].parity
    count = min(GOLDEN_ITEMS, parity.items) if parity else GOLDEN_ITEMS
    expected = (count, manifest.output_dim)
    try:
        with zipfile.ZipFile(path) as archive:
            vectors = _read_array(
                archive, f"{tower}_embedding", lambda shape, dtype: _are_vectors(shape, dtype, expected)
            )
            items = [_read_array(archive, f"{tower}_{index}", _FITS[tower]) for index in range(count)]
    except Exception as exc:  # zipfile, zlib and numpy raise many types for a damaged file
        raise IntegrityError(f"cannot read {path} ({exc}); export the artifact again") from exc
    return [item.item() if item.dtype.kind == "U" else item for item in items], vectors


def _read_array(archive: zipfile.ZipFile, name: str, fits: _Fits) -> Array:
    """Return an array whose header ``fits``. Only as many bytes are unpacked as the header announces."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
        raise ValueError(f"{name} is compressed by a method that numpy does not write")
    with archive.open(entry) as file:
        if npy.read_magic(file) != (1, 0):  # the header of later versions can have 4 GB
            raise ValueError(f"{name} has a version that an export does not write")
        shape, _, dtype = npy.read_array_header_1_0(file)
        if not fits(shape, dtype):
            raise ValueError(f"{name} is {dtype} {list(shape)}, which does not fit the manifest")
    with archive.open(entry) as file:
        array: Array = npy.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"{name} is longer than its header says")
    return array


def _are_vectors(shape: tuple[int, ...], dtype: np.dtype[Any], expected: tuple[int, int]) -> bool:
    return shape == expected and dtype.kind == "f" and math.prod(shape) * dtype.itemsize <= _MAX_VECTOR_BYTES


def _is_text(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return shape == () and dtype.kind == "U" and dtype.itemsize <= 4 * MAX_CHARACTERS


def _is_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 and len(shape) in (2, 3) and math.prod(shape[:2]) <= MAX_PIXELS and shape[2:] in ((), (3,))


def _is_cloud(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and len(shape) == 2 and shape[0] <= MAX_POINTS and shape[1] == 3


_FITS: dict[TowerName, _Fits] = {"text": _is_text, "image": _is_image, "mesh": _is_cloud}
