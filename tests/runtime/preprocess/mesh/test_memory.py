"""The memory that a mesh takes is known before it is taken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.preprocess.memory_limit import TooLittleMemoryError, limit_memory
from runtime.preprocess.mesh.formats import read_mesh_bytes
from tests.peak_memory import needs_proc, run_and_read
from tests.runtime.preprocess.cube import CORNERS, FACES, glb, mesh_glb, obj, split_glb, with_arrays

PRIMITIVES = split_glb(glb())[0]["meshes"][0]["primitives"]
HEAD = ["ply", "format binary_little_endian 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyz")]
ROWS = [b"%d %d %d" % tuple(int(value) for value in corner) for corner in CORNERS]
DART = [b"0 0 0", b"1 1 0", b"2 0 0", b"1 3 0"]  # a concave quad
N = 40_000


def test_nothing_is_asked_without_a_limit() -> None:
    assert len(read_mesh_bytes(obj().encode(), ".obj").faces) == 12


def test_few_bytes_that_become_many_triangles_ask_first() -> None:
    for data, suffix, triangles in (
        (scene(500), ".glb", 500 * 12),
        (off_of([fan(9000)]), ".off", 8998),
        (strips(9000), ".ply", 8998),
    ):
        with limit_memory(72 * triangles), pytest.raises(TooLittleMemoryError) as caught:
            read_mesh_bytes(data, suffix)
        assert caught.value.needed_bytes > 200 * triangles
        with limit_memory(caught.value.needed_bytes):
            read_mesh_bytes(data, suffix)


def off_of(faces: list[bytes], rows: list[bytes] = ROWS) -> bytes:
    return b"\n".join([b"OFF", b"%d %d 0" % (len(rows), len(faces)), *rows, *faces, b""])


def fan(corners: int) -> bytes:
    """Return a polygon of one triangle, and of many without an area."""
    return b"%d 0 1" % corners + b" 3" * (corners - 2)


def obj_of(vertex: bytes, face: bytes, count: int) -> bytes:
    return obj().encode() + (vertex + b"\n") * count + (face + b"\n") * count


def ply_of(element: str, properties: list[str], rows: bytes) -> bytes:
    head = "\n".join([*HEAD, element, *properties, "end_header", ""])
    return head.encode() + CORNERS.astype("<f4").tobytes() + rows


def strips(corners: int) -> bytes:
    row = struct.pack("<I", corners) + bytes([0, 1, 3, 2] * (corners // 4))
    return ply_of("element tristrips 1", ["property list uint uchar vertex_indices"], row)


def mixed_rows() -> bytes:
    rows = b"\x03\x00\x01\x02\x04\x00\x01\x03\x02" * N
    return ply_of(f"element face {2 * N}", ["property list uchar uchar vertex_indices"], rows)


def scene(places: int = 1, **document: Any) -> bytes:
    nodes = {"nodes": [{"mesh": 0} for _ in range(places)], "scenes": [{"nodes": list(range(places))}]}
    return glb(**nodes | document)


def large_glb(**changes: Any) -> bytes:
    """Return a surface of 100,000 triangles."""
    return mesh_glb(np.tile(CORNERS, (6000, 1)), np.tile(FACES, (9000, 1)).astype("<u4"), changes)


def skinned() -> bytes:
    """Return a surface whose vertices follow a joint two units away."""
    joints = np.zeros((48_000, 4), "|u1")
    weights = joints + np.array([255, 0, 0, 0], "|u1")
    attributes = {"POSITION": 0, "JOINTS_0": "joints", "WEIGHTS_0": "weights"}
    document = {
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1}]}],
        "skins": [{"joints": [1]}],
        "nodes": [{"mesh": 0, "skin": 0}, {"translation": [2, 0, 0]}],
    }
    return with_arrays(document, {"joints": joints, "weights": weights}, large_glb())


def binary_stl(count: int) -> bytes:
    return bytes(80) + struct.pack("<I", count) + struct.pack("<12f2x", *[0] * 6, 1, *[0] * 3, 1, 0) * count


def text_stl(count: int) -> bytes:
    corners = b"vertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    facet = b"facet normal 0 0 0\nouter loop\n" + corners + b"endloop\nendfacet\n"
    return b"solid a\n" + facet * count + b"endsolid a\n"


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "OBJ": (".obj", lambda: obj_of(b"v 0.123456 0.234567 0.345678", b"f 10001 10002 10003", N)),
    "OBJ of quads": (".obj", lambda: obj_of(b"v 10 10 10", b"f 1 2 4 3", N)),
    "OBJ of short lines": (".obj", lambda: obj_of(b"v 10 10 10", b"f 1 2 3", 2 * N)),
    "OBJ of one polygon": (".obj", lambda: obj_of(b"v 0 0 0", b"f 1 2" + b" 4" * 8 * N, 1)),
    "OFF": (".off", lambda: off_of([b"3 0 1 3", b"4 0 1 3 2"] * N, ROWS * N)),
    "OFF of one polygon": (".off", lambda: off_of([fan(8 * N)])),
    "OFF of concave quads": (".off", lambda: off_of([b"4 0 1 2 3"] * (N // 8), DART)),
    "PLY of a strip": (".ply", lambda: strips(20 * N)),
    "PLY of mixed rows": (".ply", mixed_rows),
    "text STL": (".stl", lambda: text_stl(N)),
    "binary STL": (".stl", lambda: binary_stl(N)),
    "GLB": (".glb", large_glb),
    "GLB of places": (".glb", lambda: large_glb(nodes=[{"mesh": 0}] * 9, scenes=[{"nodes": list(range(9))}])),
    "GLB of nodes": (".glb", lambda: scene(8000)),
    "GLB of primitives": (".glb", lambda: scene(meshes=[{"primitives": PRIMITIVES * 8000}])),
    "GLB of shared arrays": (".glb", lambda: large_glb(meshes=[{"primitives": PRIMITIVES * 9}])),
    "GLB of words": (".glb", lambda: glb(extras=[{"a": [1000, "b", []]} for _ in range(N)])),
    "GLB of a skin": (".glb", skinned),
}


CODE = """
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess.memory_limit import *
from runtime.preprocess.mesh.formats import read_mesh_bytes
from runtime.preprocess.mesh.memory import reading_bytes
from runtime.preprocess.point_cloud import PointCloudPreprocessor
from tests.runtime.preprocess.cube import glb

prepare = PointCloudPreprocessor(PointCloudPreprocessing(num_points=64, min_points=2, seed=0)).prepare
prepare(read_mesh_bytes(glb(), ".glb"))
data, before, asked = Path(sys.argv[1]).read_bytes(), peak(), 0
while True:
    try:
        with limit_memory(asked):
            prepare(read_mesh_bytes(data, sys.argv[2]))
        break
    except TooLittleMemoryError as exc:
        asked = exc.needed_bytes
print(reading_bytes(data, sys.argv[2]) + asked, peak() - before)
"""


@pytest.mark.process
@needs_proc
@pytest.mark.parametrize(("suffix", "make"), FILES.values(), ids=FILES)
def test_reading_takes_no_more_memory_than_it_says(suffix: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "mesh").write_bytes(make())
    said, taken = run_and_read(CODE, tmp_path / "mesh", suffix)
    assert 0.05 * said < taken < said + (8 << 20), (said, taken)
