"""Check a GLB file before trimesh reads it.

Source: glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), section 4.4 for the container, section 3
for the JSON in it.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from runtime.preprocess.item import UnusableItemError

_MAGIC, _JSON = 0x46546C67, 0x4E4F534A  # "glTF" and "JSON"
_TRIANGLE_FAN = 6
# A file may require these extensions: they do not change its triangles.
_HARMLESS_EXTENSIONS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_mesh_quantization")
_MAX_DEPTH = 64  # trimesh walks from every node to the root: minutes for a chain of some thousand nodes


def check_glb(data: bytes) -> int:
    """Refuse a GLB file that trimesh would misread, or that would take far more memory than its size.

    Returns:
        0: trimesh itself checks the length of every accessor.

    Raises:
        UnusableItemError: The file is truncated, needs other files, or stores triangles in a way that trimesh ignores.
        Exception: The document does not follow the schema; any type is possible.
    """
    document = _read_document(data)
    _check_self_contained(document)
    _check_depth(document.get("nodes", []))
    accessors = document.get("accessors", [])
    if any(accessor["count"] > len(data) for accessor in accessors):  # trimesh allocates zeros where there is no buffer
        raise UnusableItemError("it announces more vertices than the file can hold; export it again")
    for primitive in (each for mesh in document.get("meshes", []) for each in mesh["primitives"]):
        _check_primitive(primitive, accessors)
    return 0


def _read_document(data: bytes) -> dict[str, Any]:
    magic, version, length, json_length, kind = struct.unpack_from("<5I", data)
    if (magic, version, kind) != (_MAGIC, 2, _JSON):
        raise UnusableItemError("it is not a GLB file of version 2; export it as glTF 2.0, binary")
    if length > len(data):
        raise UnusableItemError(f"it is truncated: {len(data)} of {length} bytes are there; copy it again")
    document: dict[str, Any] = json.loads(data[20 : 20 + json_length])
    return document


def _check_self_contained(document: dict[str, Any]) -> None:
    unknown = [each for each in document.get("extensionsRequired", []) if not each.startswith(_HARMLESS_EXTENSIONS)]
    if unknown:
        raise UnusableItemError(f"it needs {', '.join(unknown)}; export it without compression or extensions")
    if any(not buffer.get("uri", "data:").startswith("data:") for buffer in document.get("buffers", [])):
        raise UnusableItemError("its vertices are in another file; export it as one GLB file")


def _check_depth(nodes: list[dict[str, Any]]) -> None:
    level = set(range(len(nodes)))
    for _ in range(_MAX_DEPTH):
        level = {child for index in level for child in nodes[index].get("children", [])}
    if level:
        raise UnusableItemError(
            f"its nodes are nested more than {_MAX_DEPTH} deep, or in a circle; export it without hierarchy"
        )


def _check_primitive(primitive: dict[str, Any], accessors: list[dict[str, Any]]) -> None:
    if primitive.get("mode") == _TRIANGLE_FAN:
        raise UnusableItemError("it has triangle fans, which are not supported; export it without them")
    used = [primitive["attributes"].get("POSITION"), primitive.get("indices")]
    for accessor in (accessors[index] for index in used if index is not None):
        if "sparse" in accessor or "bufferView" not in accessor:
            raise UnusableItemError(
                "its vertices are stored sparsely, which is not supported; export it without sparse accessors"
            )
        if accessor.get("normalized"):
            raise UnusableItemError(
                "its vertices are normalised, which is not supported; export it without quantisation"
            )
