"""Read mesh files with trimesh, and refuse files that trimesh would misread without an error.

trimesh gets the bytes, never the path, so it cannot open other files or fetch URLs.
"""

from __future__ import annotations

import logging
import os
import re
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
from runtime.preprocess.mesh.glb import check_glb

_INSTALL = "pip install 'embedding-backbones[mesh]'"
_WARNING_FILTERS = threading.Lock()


def read_mesh_file(path: str | os.PathLike[str]) -> Any:
    """Read a mesh file as a ``Trimesh``, ``Scene`` or ``PointCloud`` of trimesh.

    Vertices and faces are neither merged nor repaired. Materials and textures are not read.

    Args:
        path: A file whose extension is one of :data:`FORMATS`.

    Raises:
        UnusableItemError: The file cannot be read, has another format, or is damaged.
        MissingDependencyError: trimesh is not installed.
    """
    trimesh = _import_trimesh()
    try:
        suffix, data = _read(path)
        announced = FORMATS[suffix](data)
        with _without_warnings():
            joined = BytesIO(_join_parts(data, suffix))
            loaded = trimesh.load(joined, file_type=suffix[1:], process=False, skip_materials=True)
        _check_face_count(loaded, announced)
    except UnusableItemError:
        raise
    except Exception as exc:  # trimesh's loaders raise many types for a damaged file
        raise UnusableItemError(_reason(exc)) from exc
    return loaded


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
    if suffix not in FORMATS:
        raise UnusableItemError(f"{suffix or 'no extension'} is not a supported format; give {', '.join(FORMATS)}")
    data = Path(path).read_bytes()
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


def _check_face_count(loaded: Any, announced: int) -> None:
    """Refuse a file of which trimesh dropped faces, as it does for a truncated text file."""
    found = sum(len(getattr(shape, "faces", ())) for shape in getattr(loaded, "geometry", {"": loaded}).values())
    if found < announced:
        raise UnusableItemError(
            f"it is truncated or damaged: it announces {announced} faces, and {found} triangles can be read; repair it"
        )


def _check_obj(data: bytes) -> int:
    """Refuse indices that trimesh misreads: vertex 0, and negative indices that precede a vertex.

    trimesh reads vertex 0 as the first vertex. A negative index counts back from the latest vertex, but trimesh counts
    from the last vertex of the file.
    """
    if re.search(rb"(?m)^f(?=[ \t])[^\n#]*[ \t][+-]?0+(?=[/\s]|$)", data):
        raise UnusableItemError("its faces name vertex 0, and OBJ counts from 1; repair it")
    relative = re.search(rb"(?m)^f[ \t][^\n#]*-[0-9]", data)
    if relative and re.search(rb"(?m)^v\s", data[relative.end() :]):
        raise UnusableItemError("it has negative indices between its vertices; export it with positive ones")
    return len(re.findall(rb"(?m)^[ \t]*f[ \t]", data))


def _check_off(data: bytes) -> int:
    head = _OFF_HEAD.match(data)
    if not head:
        raise UnusableItemError("it does not begin as a text OFF file of three dimensions; export it again as text")
    faces = int(head["faces"])
    _check_line_count(data[head.end() :], int(head["vertices"]) + faces)
    return faces


def _check_ply(data: bytes) -> int:
    head, end, body = data.partition(b"end_header")
    if not re.match(rb"ply\s", head) or not end:
        raise UnusableItemError("it does not begin with the header of a PLY file; export it again")
    if re.search(rb"(?m)^format\s+ascii", head):
        _check_line_count(body, sum(map(int, re.findall(rb"(?m)^element\s+\S+\s+([0-9]+)", head))))
    faces = re.search(rb"(?m)^element\s+face\s+([0-9]+)", head)
    return int(faces[1]) if faces else 0


def _check_line_count(body: bytes, announced: int) -> None:
    """Refuse a truncated text file, which trimesh would read as complete."""
    found = len(re.findall(rb"(?m)^[ \t]*[^\s#]", body))
    if found < announced:
        raise UnusableItemError(
            f"it is truncated or damaged: it announces {announced} vertices and faces, and holds {found}; copy it again"
        )


def _check_stl(data: bytes) -> int:
    if _is_binary_stl(data):
        return 0
    if not re.search(rb"(?i)\bendsolid\b", data):
        raise UnusableItemError("it is truncated or not STL: it does not have the length that its header states")
    return len(re.findall(rb"(?i)\bendfacet\b", data))


def _join_parts(data: bytes, suffix: str) -> bytes:
    """Join the parts of a text file: trimesh takes minutes for thousands of parts, and reorders them by material."""
    if suffix == ".obj":
        return re.sub(rb"(?m)^[ \t]*(?:usemtl|o|g|s)[ \t][^\n]*", b"", data)
    if suffix == ".stl" and not _is_binary_stl(data):
        return re.sub(rb"(?mi)^[ \t]*endsolid[^\n]*\n\s*solid[^\n]*", b"", data)
    return data


def _is_binary_stl(data: bytes) -> bool:
    """Return whether the length is that of a binary STL: an 80-byte title, a count, and 50 bytes per triangle."""
    return len(data) >= _STL_HEADER and len(data) == _STL_HEADER + 50 * int.from_bytes(data[80:84], "little")


def _reason(exc: Exception) -> str:
    if reason := describe_file_error(exc):
        return reason
    message = shorten(str(exc), 120) or type(exc).__name__
    return f"it cannot be read ({message}); open it in a mesh viewer and export it again"


_STL_HEADER = 84
_OFF_GAP = rb"(?:\s|#[^\n]*\n)"
_OFF_HEAD = re.compile(
    rb"%b*+(?:ST)?C?N?OFF%b++(?P<vertices>[0-9]+)\s+(?P<faces>[0-9]+)\b[^\n]*" % (_OFF_GAP, _OFF_GAP)
)
# Each check refuses files that trimesh would misread, and returns the minimum number of triangles in the others.
FORMATS: dict[str, Callable[[bytes], int]] = {
    ".obj": _check_obj,
    ".off": _check_off,
    ".ply": _check_ply,
    ".stl": _check_stl,
    ".glb": check_glb,
}
