"""Bound the memory that reading a mesh file takes, from its bytes."""

from __future__ import annotations

from runtime.preprocess.json_memory import parsed_json_bytes

_PER_BYTE, _PER_LINE = 20, 400  # of OBJ, OFF, PLY and STL
_PER_JSON_BYTE = 12  # copies of the document of glTF as text, and of the buffers inside it


def reading_bytes(data: bytes, suffix: str) -> int:
    """Return the memory that reading a file takes at most, without the arrays that its reader asks for.

    Readers call :func:`~runtime.preprocess.memory_limit.ask_for_memory` for the arrays of polygons and of glTF: a short
    file can hold many triangles.
    """
    if suffix not in (".glb", ".gltf"):
        return _PER_BYTE * len(data) + _PER_LINE * (data.count(b"\n") + data.count(b"\r"))
    document = data if suffix == ".gltf" else data[20 : 20 + int.from_bytes(data[12:16], "little")]
    return _PER_JSON_BYTE * len(document) + parsed_json_bytes(document)
