"""Read the containers of glTF: the document and the buffers of a .gltf or .glb file, as one GLB file for trimesh.

Source: glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), section 4.4 for GLB, section 3.6 for
buffers.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.preprocess.files import check_regular_file, describe_file_error
from runtime.preprocess.item import UnusableItemError

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942  # "glTF", "JSON" and "BIN"
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_ONE_FILE = "export it as one GLB file"


@dataclass(kw_only=True)
class Gltf:
    """A document of glTF, and the bytes of its only buffer."""

    document: dict[str, Any]
    binary: bytearray

    def pack(self) -> bytes:
        """Return the document and the buffer as a GLB file."""
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        size = 28 + len(text) + len(self.binary)
        head = struct.pack("<5I", _MAGIC, 2, size, len(text), _JSON)
        return b"".join([head, text, struct.pack("<2I", len(self.binary), _BINARY), self.binary])

    def read(self, accessor: int) -> Float64Array:
        """Return the values of an accessor, ``[count, width]`` float64. Normalised integers become -1 to 1.

        Raises:
            UnusableItemError: The accessor is sparse.
            Exception: It does not follow the schema, or exceeds the buffer.
        """
        record = self.document["accessors"][accessor]
        if "sparse" in record or "bufferView" not in record:
            raise UnusableItemError("it stores numbers sparsely, which is not supported; export it without")
        view = self.document["bufferViews"][record["bufferView"]]
        dtype, width = np.dtype(COMPONENTS[record["componentType"]]), WIDTHS[record["type"]]
        offset = view.get("byteOffset", 0) + record.get("byteOffset", 0)
        strides = (view.get("byteStride", dtype.itemsize * width), dtype.itemsize)
        stored = np.ndarray((record["count"], width), dtype, self.binary, offset, strides)
        values: Float64Array = stored.astype(np.float64)
        if record.get("normalized"):
            values = np.maximum(values / np.iinfo(dtype).max, -1)
        return values

    def append(self, array: Array) -> int:
        """Store ``[count, 3]`` numbers as float32, and return their accessor."""
        data = array.astype("<f4").tobytes()
        self.binary += bytes(-len(self.binary) % 4)
        self.document["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)})
        self.document["accessors"].append(
            {
                "bufferView": len(self.document["bufferViews"]) - 1,
                "componentType": 5126,
                "count": len(array),
                "type": "VEC3",
            }
        )
        self.binary += data
        return len(self.document["accessors"]) - 1


def read_glb(data: bytes, folder: Path) -> Gltf:
    """Read a .glb file.

    Raises:
        UnusableItemError: The file is truncated, or has a buffer that is not in its folder.
        Exception: The document does not follow the schema; any type is possible.
    """
    magic, version, length, json_length, kind = struct.unpack_from("<5I", data)
    if (magic, version, kind) != (_MAGIC, 2, _JSON):
        raise UnusableItemError("it is not a GLB file of version 2; export it as glTF 2.0, binary")
    if length > len(data):
        raise UnusableItemError(f"it is truncated: {len(data)} of {length} bytes are there; copy it again")
    return _join_buffers(data[20 : 20 + json_length], _binary_chunk(data, 20 + json_length), folder)


def read_gltf(data: bytes, folder: Path) -> Gltf:
    """Read a .gltf file, with buffers inside it or beside it; raises as :func:`read_glb`."""
    return _join_buffers(data, None, folder)


def _binary_chunk(data: bytes, start: int) -> bytes | None:
    while start + 8 <= len(data):
        length, kind = struct.unpack_from("<2I", data, start)
        if kind == _BINARY:
            if start + 8 + length > len(data):
                raise UnusableItemError("it is truncated: its buffer is not all there; copy it again")
            return data[start + 8 : start + 8 + length]
        start += 8 + length
    return None


def _join_buffers(text: bytes, chunk: bytes | None, folder: Path) -> Gltf:
    document: dict[str, Any] = json.loads(text.decode("utf-8-sig"))
    if not str(document["asset"]["version"]).startswith("2."):
        raise UnusableItemError("it is not glTF of version 2; export it as glTF 2.0")
    binary, files, starts = bytearray(), set[Path](), []
    buffers = document.get("buffers", [])
    for index, buffer in enumerate(buffers):
        data = _read_uri(buffer["uri"], folder, files) if "uri" in buffer else chunk if not index else None
        if len(data or b"") < buffer["byteLength"]:
            raise UnusableItemError(f"it is truncated: buffer {index} is shorter than it announces; copy it again")
        starts.append(len(binary))
        binary += data[: buffer["byteLength"]] if data else b""
        binary += bytes(-len(binary) % 4)
    for view in document.get("bufferViews", []):
        offset, size = view.get("byteOffset", 0), buffers[view["buffer"]]["byteLength"]
        if not 0 <= offset <= offset + view["byteLength"] <= size:
            raise UnusableItemError("it is damaged: it names bytes that its buffer does not have; export it again")
        view["byteOffset"], view["buffer"] = starts[view["buffer"]] + offset, 0
    document["buffers"] = [{"byteLength": len(binary)}]
    return Gltf(document=document, binary=binary)


def _read_uri(uri: str, folder: Path, files: set[Path]) -> bytes:
    """Read a data URI, or a file of the folder that is named once. A repeated file could fill the memory."""
    if uri.startswith("data:"):
        head, _, payload = uri.partition(",")
        data = unquote_to_bytes(payload)
        return base64.b64decode(data, validate=True) if head.endswith(";base64") else data
    name = unquote(uri).removeprefix("./")
    path = (folder / name).resolve()
    if set(name) & set("/\\:") or path.parent != folder.resolve() or path in files:
        raise UnusableItemError(f"its buffer {shorten(uri, 80)!r} is not a file of its folder; {_ONE_FILE}")
    files.add(path)
    try:
        check_regular_file(path)
        return path.read_bytes()
    except OSError as exc:
        reason = describe_file_error(exc) or type(exc).__name__
        raise UnusableItemError(f"its buffer {shorten(uri, 80)!r} cannot be read: {reason}; {_ONE_FILE}") from exc
