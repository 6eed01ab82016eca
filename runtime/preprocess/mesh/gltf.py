"""Read the containers of glTF: the document and the buffers of a .gltf or .glb file.

Source: glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), section 4.4 for GLB, section 3.6 for
buffers and accessors.
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
_ALL = slice(None)
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_ONE_FILE = "export it as one GLB file"
# A file may require these extensions: they do not change its triangles, or are followed here.
_KNOWN_EXTENSIONS = (
    "KHR_materials_",
    "KHR_texture_",
    "EXT_texture_",
    "KHR_lights_",
    "KHR_mesh_quantization",
    "EXT_mesh_gpu_instancing",
)


@dataclass(frozen=True, kw_only=True)
class Gltf:
    """A document of glTF, and its buffers."""

    document: dict[str, Any]
    buffers: list[bytes | memoryview]

    def stored(self, accessor: int) -> Array:
        """Return the numbers of an accessor as they are stored, ``[count, width]``. They are not copied.

        Raises:
            UnusableItemError: The accessor is sparse.
            Exception: It does not follow the schema, or exceeds its buffer view.
        """
        record = self.document["accessors"][accessor]
        if "sparse" in record or "bufferView" not in record:
            raise UnusableItemError(
                "it stores numbers sparsely, which is not supported; export it without sparse accessors"
            )
        view = self.document["bufferViews"][record["bufferView"]]
        start = view.get("byteOffset", 0)
        data = memoryview(self.buffers[view["buffer"]])[start : start + view["byteLength"]]
        dtype, width = np.dtype(_COMPONENTS[record["componentType"]]), _WIDTHS[record["type"]]
        strides = (view.get("byteStride", dtype.itemsize * width), dtype.itemsize)
        return np.ndarray((record["count"], width), dtype, data, record.get("byteOffset", 0), strides)

    def read(self, accessor: int, rows: Array | slice = _ALL) -> Float64Array:
        """Return rows of :meth:`stored` as float64. Normalised integers become -1 to 1."""
        stored = self.stored(accessor)
        values: Float64Array = stored[rows].astype(np.float64)
        if self.document["accessors"][accessor].get("normalized"):
            values = np.maximum(values / np.iinfo(stored.dtype).max, -1)
        return values


def read_glb(data: bytes, folder: Path) -> Gltf:
    """Read a .glb file.

    Raises:
        UnusableItemError: The file is truncated, needs an unknown extension, or has a buffer that is not in its folder.
        Exception: The document does not follow the schema; any type is possible.
    """
    magic, version, length, json_length, kind = struct.unpack_from("<5I", data)
    if (magic, version, kind) != (_MAGIC, 2, _JSON):
        raise UnusableItemError("it is not a GLB file of version 2; export it as glTF 2.0, binary")
    if length > len(data):
        raise UnusableItemError(f"it is truncated: {len(data)} of {length} bytes are there; copy it again")
    return _read(data[20 : 20 + json_length], _binary_chunk(data, 20 + json_length), folder)


def read_gltf(data: bytes, folder: Path) -> Gltf:
    """Read a .gltf file, with buffers inside it or beside it; raises as :func:`read_glb`."""
    return _read(data, None, folder)


def _binary_chunk(data: bytes, start: int) -> memoryview | None:
    while start + 8 <= len(data):
        length, kind = struct.unpack_from("<2I", data, start)
        if kind == _BINARY:
            if start + 8 + length > len(data):
                raise UnusableItemError("it is truncated: its buffer is not all there; copy it again")
            return memoryview(data)[start + 8 : start + 8 + length]
        start += 8 + length
    return None


def _read(text: bytes, chunk: memoryview | None, folder: Path) -> Gltf:
    document: dict[str, Any] = json.loads(text.decode("utf-8-sig"))
    if not str(document["asset"]["version"]).startswith("2."):
        raise UnusableItemError("it is not glTF of version 2; export it as glTF 2.0")
    unknown = [each for each in document.get("extensionsRequired", []) if not each.startswith(_KNOWN_EXTENSIONS)]
    if unknown:  # before the buffers: that of a compressed file may be empty
        raise UnusableItemError(f"it needs {', '.join(unknown)}; export it without compression or extensions")
    files, buffers = set[Path](), list[bytes | memoryview]()
    for index, buffer in enumerate(document.get("buffers", [])):
        data = _read_uri(buffer["uri"], folder, files) if "uri" in buffer else chunk if not index else None
        buffers.append(data or b"")
        if len(buffers[-1]) < buffer["byteLength"]:
            raise UnusableItemError(f"it is truncated: buffer {index} is shorter than it announces; copy it again")
    for view in document.get("bufferViews", []):
        offset, end = view.get("byteOffset", 0), len(buffers[view["buffer"]])
        if not 0 <= offset <= offset + view["byteLength"] <= end:
            raise UnusableItemError("it is damaged: it names bytes that its buffer does not have; export it again")
    size = sum(map(len, buffers))
    if not all(0 <= accessor["count"] <= size for accessor in document.get("accessors", [])):
        raise UnusableItemError("it announces more vertices than the file can hold; export it again")
    return Gltf(document=document, buffers=buffers)


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
