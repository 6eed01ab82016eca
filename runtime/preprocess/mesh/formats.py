"""Read mesh files. OBJ, OFF and PLY are read here; STL and glTF by trimesh, once the file is prepared for it.

No library was right on polygons: trimesh, meshio and others drop vertices or cut concave polygons wrongly, without an
error. trimesh gets bytes, never a path, so it cannot open other files or fetch URLs.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from types import ModuleType
from typing import Any

from runtime.errors import MissingDependencyError
from runtime.preprocess.files import check_regular_file, describe_file_error
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.memory_limit import TooLittleMemoryError, ask_for_memory
from runtime.preprocess.mesh.glb import check_gltf, pose_gltf
from runtime.preprocess.mesh.gltf import Gltf, read_glb, read_gltf
from runtime.preprocess.mesh.memory import loading_bytes
from runtime.preprocess.mesh.obj import read_obj
from runtime.preprocess.mesh.off import read_off
from runtime.preprocess.mesh.ply import read_ply
from runtime.preprocess.mesh.stl import prepare_stl

_INSTALL = "pip install 'embedding-backbones[mesh]'"
_WARNING_FILTERS = threading.Lock()
_NO_FOLDER = Path(os.devnull)  # it has no files, so that a glTF from a stranger can name none


def read_mesh_file(path: str | os.PathLike[str]) -> Any:
    """Read a mesh file as an object with vertices and faces, or as a ``Scene`` of trimesh.

    Vertices and faces are neither merged nor repaired. Materials and textures are not read.

    Args:
        path: A file whose extension is one of :data:`FORMATS`.

    Raises:
        UnusableItemError: The file cannot be read, has another format, or is damaged.
        MissingDependencyError: A package of the extra ``mesh`` is needed and not installed.
    """
    return _read_mesh(lambda: _read(path), Path(path).parent)


def read_mesh_bytes(data: bytes, suffix: str) -> Any:
    """Read the bytes of a mesh file with the extension ``suffix``, as :func:`read_mesh_file` does.

    A glTF must hold all of its buffers.

    Raises:
        UnusableItemError: The bytes cannot be read, have another format, or are damaged.
        MissingDependencyError: A package of the extra ``mesh`` is needed and not installed.
        TooLittleMemoryError: It needs more memory than the limit of the thread.
    """
    return _read_mesh(lambda: _check(data, suffix), _NO_FOLDER)


def _read_mesh(read: Callable[[], tuple[str, bytes]], folder: Path) -> Any:
    try:
        suffix, data = read()
        with _without_warnings():
            return FORMATS[suffix](data, folder)
    except (UnusableItemError, MissingDependencyError, TooLittleMemoryError):
        raise
    except Exception as exc:  # a damaged file can raise many types
        raise UnusableItemError(_reason(exc)) from exc


def _import_trimesh() -> ModuleType:
    try:
        import trimesh
    except ImportError as exc:
        raise MissingDependencyError(f"trimesh, which reads mesh files, is not installed; {_INSTALL}") from exc
    # Without a handler, Python prints a library's log records of level warning on standard error.
    logging.getLogger("trimesh").addHandler(logging.NullHandler())
    return trimesh


def _read(path: str | os.PathLike[str]) -> tuple[str, bytes]:
    check_regular_file(path)
    suffix = Path(path).suffix.lower()
    return _check(Path(path).read_bytes() if suffix in FORMATS else b"", suffix)


def _check(data: bytes, suffix: str) -> tuple[str, bytes]:
    if suffix not in FORMATS:
        raise UnusableItemError(f"{suffix or 'no extension'} is not a supported format; give {', '.join(FORMATS)}")
    if not data.strip():
        raise UnusableItemError("the file is empty")
    return suffix, data


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings, but raise numpy's warning of an unreadable number, which is an error from numpy 2.4 on."""
    with _WARNING_FILTERS, warnings.catch_warnings():  # all threads share the list of filters
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="string or file could not be read", category=DeprecationWarning)
        yield


def _load(data: bytes, file_type: str) -> Any:
    return _import_trimesh().load(BytesIO(data), file_type=file_type, process=False, skip_materials=True)


def _read_stl(data: bytes, _: Path) -> Any:
    prepared, announced = prepare_stl(data)
    loaded = _load(prepared, "stl")
    found = sum(len(getattr(shape, "faces", ())) for shape in getattr(loaded, "geometry", {"": loaded}).values())
    if found != announced:
        raise UnusableItemError(
            f"it is truncated or damaged: it announces {announced} faces, and {found} triangles can be read; repair it"
        )
    return loaded


def _load_gltf(gltf: Gltf) -> Any:
    check_gltf(gltf)
    ask_for_memory(loading_bytes(gltf.document))
    pose_gltf(gltf)
    return _load(gltf.pack(), "glb")


def _reason(exc: Exception) -> str:
    if reason := describe_file_error(exc):
        return reason
    message = shorten(str(exc), 120) or type(exc).__name__
    return f"it cannot be read ({message}); open it in a mesh viewer and export it again"


# Each function gets the bytes of a file, and the folder for the buffers of glTF.
FORMATS: dict[str, Callable[[bytes, Path], Any]] = {
    ".obj": lambda data, _: read_obj(data),
    ".off": lambda data, _: read_off(data),
    ".ply": lambda data, _: read_ply(data),
    ".stl": _read_stl,
    ".glb": lambda data, folder: _load_gltf(read_glb(data, folder)),
    ".gltf": lambda data, folder: _load_gltf(read_gltf(data, folder)),
}
