"""Read mesh files.

No library was right on polygons: trimesh, meshio and others drop vertices or cut concave polygons wrongly, without an
error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from runtime.errors import MissingDependencyError
from runtime.preprocess.files import check_regular_file, describe_file_error
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.memory_limit import TooLittleMemoryError
from runtime.preprocess.mesh.gltf import read_glb, read_gltf
from runtime.preprocess.mesh.gltf_scene import read_gltf_triangles
from runtime.preprocess.mesh.obj import read_obj
from runtime.preprocess.mesh.off import read_off
from runtime.preprocess.mesh.ply import read_ply
from runtime.preprocess.mesh.polygons import TriangleMesh
from runtime.preprocess.mesh.stl import read_stl
from runtime.preprocess.silence import SuppressWarnings

_WITHOUT_WARNINGS = SuppressWarnings("numpy", "runtime.preprocess.mesh")
_NO_FOLDER = Path(os.devnull)  # it has no files, so that a glTF from a stranger can name none


def read_mesh_file(path: str | os.PathLike[str]) -> TriangleMesh:
    """Read the triangles of a mesh file, in the order of the file.

    Vertices and faces are neither merged nor repaired. Materials and textures are not read.

    Args:
        path: A file whose extension is one of :data:`FORMATS`.

    Raises:
        UnusableItemError: The file cannot be read, has another format, or is damaged.
        MissingDependencyError: A polygon is concave, and mapbox_earcut is not installed.
    """
    suffix = Path(path).suffix.lower()
    with _errors_with_reasons():
        check_regular_file(path)
        _check_suffix(suffix)
        return _parse(Path(path).read_bytes(), suffix, Path(path).parent)


def read_mesh_bytes(data: bytes, suffix: str) -> TriangleMesh:
    """Read the bytes of a mesh file with the extension ``suffix``, as :func:`read_mesh_file` does.

    A glTF must hold all of its buffers.

    Raises:
        UnusableItemError: The bytes cannot be read, have another format, or are damaged.
        MissingDependencyError: A polygon is concave, and mapbox_earcut is not installed.
        TooLittleMemoryError: It needs more memory than the limit of the thread.
    """
    with _errors_with_reasons():
        _check_suffix(suffix)
        return _parse(data, suffix, _NO_FOLDER)


@contextmanager
def _errors_with_reasons() -> Iterator[None]:
    try:
        yield
    except (UnusableItemError, MissingDependencyError, TooLittleMemoryError):
        raise
    except Exception as exc:  # a damaged file can raise many types
        raise UnusableItemError(_reason(exc)) from exc


def _check_suffix(suffix: str) -> None:
    if suffix not in FORMATS:
        raise UnusableItemError(f"{suffix or 'no extension'} is not a supported format; give {', '.join(FORMATS)}")


def _parse(data: bytes, suffix: str, folder: Path) -> TriangleMesh:
    if not data.strip():
        raise UnusableItemError("the file is empty")
    with _WITHOUT_WARNINGS:
        return FORMATS[suffix](data, folder)


def _reason(exc: Exception) -> str:
    if reason := describe_file_error(exc):
        return reason
    message = shorten(str(exc), 120) or type(exc).__name__
    return f"it cannot be read ({message}); open it in a mesh viewer and export it again"


# Each function gets the bytes of a file, and the folder for the buffers of glTF.
FORMATS: dict[str, Callable[[bytes, Path], TriangleMesh]] = {
    ".obj": lambda data, _: read_obj(data),
    ".off": lambda data, _: read_off(data),
    ".ply": lambda data, _: read_ply(data),
    ".stl": lambda data, _: read_stl(data),
    ".glb": lambda data, folder: read_gltf_triangles(read_glb(data, folder)),
    ".gltf": lambda data, folder: read_gltf_triangles(read_gltf(data, folder)),
}
