"""Make a cube as an object, as an array, and as a file of every format."""

from __future__ import annotations

import base64
import itertools
import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh

from runtime.array_types import Array
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess.point_cloud import PointCloudPreprocessor

PointCloud: Any = trimesh.PointCloud  # its constructor has no types
CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([triangle for a, b, c, d in QUADS for triangle in ((a, b, c), (a, c, d))])
ROWS = [" ".join(map(str, corner)) for corner in CORNERS]
COMPONENTS = {"|i1": 5120, "|u1": 5121, "<u2": 5123, "<u4": 5125, "<f4": 5126}  # types of glTF
RECIPE = PointCloudPreprocessing(num_points=256, min_points=4, seed=0)


def prepare(item: Any, **changes: Any) -> Array:
    return PointCloudPreprocessor(replace(RECIPE, **changes)).prepare(item)


def cube(**changes: Any) -> Any:
    return SimpleNamespace(**({"vertices": CORNERS, "faces": FACES} | changes))


def write(folder: Path, suffix: str, text: str | bytes) -> Path:
    path = folder / f"mesh{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def obj(faces: str | None = None, head: str = "") -> str:
    lines = faces or "\n".join(f"f {a + 1} {b + 1} {c + 1}" for a, b, c in FACES)
    return head + "".join(f"v {row}\n" for row in ROWS) + lines + "\n"


def off(head: str = "OFF\n8 12 0", faces: Any = FACES) -> str:
    return "\n".join([head, *ROWS, *(f"{len(face)} {' '.join(map(str, face))}" for face in faces), ""])


def ply(vertices: int = 8, faces: int = 12, rows: list[str] = ROWS, triangles: Any = FACES) -> str:
    head = ["ply", "format ascii 1.0", f"element vertex {vertices}", *(f"property double {axis}" for axis in "xyz")]
    head += [f"element face {faces}", "property list uchar int vertex_indices", "end_header"]
    return "\n".join([*head, *rows, *(f"{len(face)} {' '.join(map(str, face))}" for face in triangles), ""])


def ascii_stl() -> str:
    facets = (
        "facet normal 0 0 0\nouter loop\n"
        + "".join(f"vertex {' '.join(map(str, CORNERS[index]))}\n" for index in face)
        + "endloop\nendfacet\n"
        for face in FACES
    )
    return f"solid cube\n{''.join(facets)}endsolid cube\n"


def binary_stl(rest: bytes = b"") -> bytes:
    normals, ends = np.zeros((12, 3), "<f4"), [b"\0\0"] * 12
    corners = CORNERS[FACES].astype("<f4")
    parts = (a.tobytes() + b.tobytes() + end for a, b, end in zip(normals, corners, ends, strict=True))
    return bytes(80) + struct.pack("<I", 12) + b"".join(parts) + rest


def glb(**changes: Any) -> bytes:
    """Return a cube as GLB; ``changes`` replace members of its document."""
    return mesh_glb(CORNERS, FACES.astype("<u2"), changes)


def mesh_glb(positions: Array, indices: Array, changes: dict[str, Any]) -> bytes:
    arrays = positions.astype("<f4"), indices
    sizes = [array.nbytes for array in arrays]
    document: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": sum(sizes)}],
        "bufferViews": [
            {"buffer": 0, "byteLength": sizes[0]},
            {"buffer": 0, "byteOffset": sizes[0], "byteLength": sizes[1]},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(positions), "type": "VEC3"},
            {"bufferView": 1, "componentType": COMPONENTS[indices.dtype.str], "count": indices.size, "type": "SCALAR"},
        ],
    }
    return pack_glb(json.dumps(document | changes), b"".join(array.tobytes() for array in arrays))


def pack_glb(document: str, binary: bytes) -> bytes:
    text = document.encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def with_accessor(index: int, **changes: Any) -> bytes:
    """Return the cube with members of an accessor replaced, or removed where they are ``None``."""
    document, binary = split_glb(glb())
    merged = document["accessors"][index] | changes
    document["accessors"][index] = {key: value for key, value in merged.items() if value is not None}
    return pack_glb(json.dumps(document), binary)


def with_arrays(document: dict[str, Any], arrays: dict[str, Array], data: bytes | None = None) -> bytes:
    """Return a GLB, by default the cube, with more accessors, which ``document`` names as strings."""
    base, binary = split_glb(data or glb())
    base |= document
    numbers = {}
    for name, array in arrays.items():
        numbers[f': "{name}"'] = ": " + str(len(base["accessors"]))
        base["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": array.nbytes})
        component = COMPONENTS[array.dtype.str]
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[array.shape[1]]
        accessor = {"bufferView": len(base["bufferViews"]) - 1, "componentType": component, "type": kind}
        base["accessors"].append(accessor | {"count": len(array), "normalized": component != 5126 and name != "joints"})
        binary += array.tobytes()
    base["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(base)
    for name, number in numbers.items():
        text = text.replace(name, number)
    return pack_glb(text, binary)


def split_glb(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the document and the buffer of a GLB file."""
    end = 20 + int.from_bytes(data[12:16], "little")
    return json.loads(data[20:end]), data[end + 8 :]


def gltf(uri: str | None = None, **changes: Any) -> str:
    """Return a cube as text; its buffer is inside, or in the file ``uri``."""
    document, binary = split_glb(glb(**changes))
    inside = f"data:application/octet-stream;base64,{base64.b64encode(binary).decode()}"
    document["buffers"][0]["uri"] = uri or inside
    return json.dumps(document)


def cube_file(folder: Path, suffix: str) -> Path:
    path = folder / f"cube{suffix}"
    if suffix == ".gltf":
        return write(folder, suffix, gltf()).rename(path)
    trimesh.Trimesh(CORNERS, FACES, process=False).export(path)
    return path


def assert_on_the_cube(points: Array) -> None:
    """Check that points lie on a cube. The cube is found from the points, because their mean moves it."""
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(high - low, (high - low)[0], rtol=1e-5)
    distance = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1)
    assert distance.max() < 1e-6
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-6)
