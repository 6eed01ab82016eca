"""Meshes and point clouds: what is read, what is sampled, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.errors import ManifestError, MissingDependencyError, UsageError
from runtime.preprocess import UnusableItemError
from runtime.preprocess.mesh import triangles as mesh_module
from runtime.preprocess.mesh.triangles import load_corners
from runtime.preprocess.point_cloud import PointCloudPreprocessor, center_and_scale, sample_surface, triangle_areas

Array = np.ndarray[Any, Any]
PointCloud: Any = trimesh.PointCloud  # its constructor has no types

CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([triangle for a, b, c, d in QUADS for triangle in ((a, b, c), (a, c, d))])
ROWS = [" ".join(map(str, corner)) for corner in CORNERS]
SUFFIXES = (".obj", ".off", ".ply", ".stl", ".glb")
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


def ply(vertices: int = 8, faces: int = 12, rows: list[str] = ROWS) -> str:
    head = ["ply", "format ascii 1.0", f"element vertex {vertices}", *(f"property double {axis}" for axis in "xyz")]
    head += [f"element face {faces}", "property list uchar int vertex_indices", "end_header"]
    return "\n".join([*head, *rows, *(f"3 {a} {b} {c}" for a, b, c in FACES), ""])


def ascii_stl() -> str:
    facets = (
        "facet normal 0 0 0\nouter loop\n"
        + "".join(f"vertex {' '.join(map(str, CORNERS[index]))}\n" for index in face)
        + "endloop\nendfacet\n"
        for face in FACES
    )
    return f"solid cube\n{''.join(facets)}endsolid cube\n"


def glb(**changes: Any) -> bytes:
    """A cube, by hand; ``changes`` replace members of its document."""
    positions, indices = CORNERS.astype("<f4").tobytes(), FACES.astype("<u2").tobytes()
    document: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": len(positions + indices)}],
        "bufferViews": [
            {"buffer": 0, "byteLength": len(positions)},
            {"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices)},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"},
        ],
    }
    return pack_glb(json.dumps(document | changes), positions + indices)


def pack_glb(document: str, binary: bytes) -> bytes:
    text = document.encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def with_accessor(index: int, **changes: Any) -> bytes:
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3"},
        {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"},
    ]
    accessors[index] |= changes
    return glb(accessors=[{key: value for key, value in each.items() if value is not None} for each in accessors])


def cube_file(folder: Path, suffix: str) -> Path:
    path = folder / f"cube{suffix}"
    trimesh.Trimesh(CORNERS, FACES, process=False).export(path)
    return path


def assert_on_the_cube(points: Array) -> None:
    """The cube as sampled is moved by the mean of the sample, so its faces are found again, not assumed."""
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(high - low, (high - low)[0], rtol=1e-5)
    distance = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1)
    assert distance.max() < 1e-6
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_points(suffix: str, tmp_path: Path) -> None:
    points = prepare(cube_file(tmp_path, suffix))
    assert points.shape == (256, 3)
    assert points.dtype == np.float32
    assert_on_the_cube(points)
    assert points.tobytes() == prepare(cube()).tobytes()


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".obj", obj(head="mtllib missing.mtl\no cube\nusemtl red\n")),
        (".obj", obj("\n".join(f"f {a + 1}/1/1 {b + 1}/1/1 {c + 1}/1/1" for a, b, c in FACES), "vt 0 0\nvn 0 0 1\n")),
        (".obj", obj("\n".join(f"f {a - 8} {b - 8} {c - 8}" for a, b, c in FACES))),
        (".obj", obj().replace("\n", "\r\n")),
        (".obj", obj().replace("\nf", "\n# f 0 -1\nf", 3)),
        (".obj", "o a\n" + "g b\nusemtl red\nf ".join(obj().split("f ", 3)) + "usemtl blue\ns off\n"),
        (".obj", "usemtl red\nf ".join(obj().split("f ", 7)).replace("usemtl red", "usemtl blue", 4)),
        (".stl", ascii_stl().replace("endfacet\nfacet", "endfacet\nendsolid a\n\nsolid b\nfacet", 5)),
        (".off", off()),
        (".off", off("# a comment\nOFF 8 12 0")),
        (".off", off("# a comment\n\nOFF # another\n# and one more\n8 12 0 # counts")),
        (".off", off("COFF\n\n8 12 0")),
        (".ply", ply()),
        (".ply", trimesh.Trimesh(CORNERS, FACES, process=False).export(file_type="ply", encoding="ascii")),
        (".stl", ascii_stl()),
        (".stl", ascii_stl().upper()),
        (".glb", glb()),
        (".glb", glb(nodes=[*({"children": [i]} for i in range(1, 64)), {"mesh": 0}])),
        (".glb", glb(extensionsRequired=["KHR_materials_unlit"])),
    ],
)
def test_variants_of_the_formats_give_the_same_points(suffix: str, text: str | bytes, tmp_path: Path) -> None:
    points = prepare(write(tmp_path, suffix, text))
    assert points.tobytes() == prepare(cube()).tobytes()


def test_quads_are_cut_into_triangles(tmp_path: Path) -> None:
    for suffix, text in {
        ".obj": obj("\n".join("f " + " ".join(str(index + 1) for index in quad) for quad in QUADS)),
        ".off": off("OFF\n8 6 0", QUADS),
    }.items():
        path = write(tmp_path, suffix, text)
        assert triangle_areas(load_corners(path)).sum() == pytest.approx(24)
        assert_on_the_cube(prepare(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_extensions_may_be_capitals_and_paths_strings(suffix: str, tmp_path: Path) -> None:
    path = cube_file(tmp_path, suffix)
    capital = path.rename(path.with_suffix(suffix.upper()))
    assert prepare(str(capital)).tobytes() == prepare(cube()).tobytes()


def test_the_sampling_is_the_one_it_always_was() -> None:
    """Literal numbers: artifacts in use rely on this stream."""
    expected = [
        [0.019500344041181228, 1.0, 0.6913773870693902],
        [-0.15919093128757922, 1.0, 0.30177540203969855],
        [-0.931370776238013, -1.0, 0.8886746684191851],
    ]
    np.testing.assert_array_equal(sample_surface(CORNERS[FACES], 3, seed=0), expected)
    golden = [
        [0.06679404, 0.57156855, 0.40801188],
        [-0.03666652, 0.57156855, 0.18243602],
        [-0.48375139, -0.58641261, 0.52224517],
    ]
    np.testing.assert_allclose(prepare(cube())[:3], golden, rtol=0, atol=1e-7)


def test_more_points_begin_with_the_same_ones() -> None:
    few, many = (sample_surface(CORNERS[FACES], count, seed=3) for count in (10, 100))
    np.testing.assert_array_equal(few, many[:10])


def test_another_seed_gives_other_points() -> None:
    assert not np.isin(prepare(cube(), seed=1), prepare(cube())).any()


def test_items_do_not_depend_on_what_came_before(tmp_path: Path) -> None:
    path = cube_file(tmp_path, ".ply")
    preprocessor = PointCloudPreprocessor(RECIPE)
    first = preprocessor.prepare(path).tobytes()
    preprocessor.prepare(trimesh.creation.icosphere())
    np.random.seed(1)
    assert preprocessor.prepare(path).tobytes() == first
    assert np.random.random() == np.random.RandomState(1).random_sample()


def test_the_same_file_gives_the_same_points_in_another_process(tmp_path: Path) -> None:
    """With several meshes, whose order must not come from a hash or a random name."""
    path = tmp_path / "scene.glb"
    two_primitives = [{"attributes": {"POSITION": 0}, "indices": 1}] * 2
    nodes = [{"mesh": 0, "translation": [5.0 * index, 0, 0], "name": f"part {index}"} for index in range(7)]
    path.write_bytes(glb(meshes=[{"primitives": two_primitives}], nodes=nodes, scenes=[{"nodes": list(range(7))}]))
    code = f"""
import hashlib
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess.point_cloud import PointCloudPreprocessor
points = PointCloudPreprocessor(PointCloudPreprocessing(num_points=64, min_points=4, seed=0)).prepare({str(path)!r})
print(hashlib.sha256(points.tobytes()).hexdigest())
"""
    digests = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "error", "-c", code]
        digests.add(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    assert len(digests) == 1


def test_points_lie_on_their_triangles() -> None:
    corners = np.random.RandomState(0).normal(size=(1, 3, 3))
    points = sample_surface(corners, 500, seed=0)
    a, b, c = corners[0]
    weights = np.linalg.solve(np.stack([a, b, c], axis=1), points.T)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert weights.min() > 0


def test_points_are_uniform_in_a_triangle() -> None:
    """A right triangle with legs 1: each of the four congruent parts gets a quarter."""
    corners = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    x, y, _ = sample_surface(corners, 40_000, seed=0).T
    parts = [np.mean(part) for part in (x > 0.5, y > 0.5, x + y < 0.5)]
    np.testing.assert_allclose(parts, 0.25, atol=0.01)


def test_triangles_are_drawn_by_their_area() -> None:
    """Areas 1, 0, 3 and 6, far apart, so that a point shows its triangle."""
    shape = np.array([[0.0, 0, 0], [2, 0, 0], [0, 1, 0]])
    sizes = [1.0, 0.0, 3.0, 6.0]
    corners = np.stack([shape * [1, size, 1] + [0, 0, 10 * index] for index, size in enumerate(sizes)])
    z = sample_surface(corners, 40_000, seed=0)[:, 2]
    shares = np.bincount(np.round(z / 10).astype(int), minlength=4) / len(z)
    np.testing.assert_allclose(shares, [0.1, 0, 0.3, 0.6], atol=0.01)


def test_place_and_size_of_a_mesh_do_not_matter() -> None:
    expected = prepare(cube())
    moved = prepare(cube(vertices=CORNERS * 0.003 + [70.0, -20.0, 1.0]))
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0.0), (1e6, 0.0), (1.0, 5e6), (1e150, 0.0), (1e-150, 0.0)])
def test_place_and_size_of_a_cloud_do_not_matter(scale: float, offset: float) -> None:
    cloud = np.random.RandomState(0).randint(-1000, 1000, size=(50, 3)) / 64
    np.testing.assert_allclose(prepare(cloud * scale + offset), prepare(cloud), atol=2e-7)


def test_a_cloud_is_taken_as_it_is() -> None:
    """Worked by hand: the mean is (1, 1, 0), the farthest are 1 from it."""
    cloud = np.array([[0, 1, 0], [2, 1, 0], [1, 1.5, 0], [1, 0.5, 0]])
    expected = np.array([[-1, 0, 0], [1, 0, 0], [0, 0.5, 0], [0, -0.5, 0]], dtype=np.float32)
    before = cloud.copy()
    np.testing.assert_array_equal(prepare(cloud), expected)
    np.testing.assert_array_equal(cloud, before)
    assert prepare(cloud).dtype == np.float32
    np.testing.assert_array_equal(prepare(np.flipud(cloud)), np.flipud(expected))
    assert prepare(cloud).shape[0] < RECIPE.num_points


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4", "i1", "i8", "u1", "u8"])
def test_every_real_dtype_is_a_cloud(dtype: str) -> None:
    cloud = np.random.RandomState(0).randint(0, 100, size=(20, 3))
    np.testing.assert_array_equal(prepare(cloud.astype(dtype)), prepare(cloud))


def test_far_and_small_clouds_keep_their_digits() -> None:
    """Unsigned integers do not wrap round, and squares do not leave the range of float16."""
    assert prepare(np.array([[0, 0, 0], [255, 0, 0], [0, 9, 0], [1, 1, 1]], np.uint8))[0, 0] < 0
    assert np.isfinite(prepare(np.array([[0, 0, 0], [6e4, 0, 0], [0, 9, 0], [1, 1, 1]], np.float16))).all()


def test_a_batch_is_its_rows() -> None:
    preprocessor = PointCloudPreprocessor(RECIPE)
    rows = [preprocessor.prepare(item) for item in (cube(), cube(faces=FACES[:6]))]
    batch = preprocessor.collate(rows)
    assert list(batch) == [RECIPE.graph_inputs()[0].name] == ["points"]
    assert batch["points"].shape == (2, 256, 3)
    assert batch["points"].dtype == np.float32
    np.testing.assert_array_equal(batch["points"][1], rows[1])


def test_meshes_of_a_scene_are_placed_by_its_graph(tmp_path: Path) -> None:
    """Two cubes in one file: one turned, scaled and moved by a parent and a child node."""
    turn = [0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]  # x to y
    nodes = [
        {"mesh": 0},
        {"translation": [10.0, 0, 0], "rotation": turn, "children": [2]},
        {"mesh": 0, "scale": [4, 1, 1]},
    ]
    path = write(tmp_path, ".glb", glb(nodes=nodes, scenes=[{"nodes": [0, 1]}]))
    corners = load_corners(path)
    assert corners.shape == (24, 3, 3)
    plain, moved = sorted((corners[:12], corners[12:]), key=lambda part: part.max())
    np.testing.assert_array_equal(plain, CORNERS[FACES])
    np.testing.assert_allclose(moved.min(axis=(0, 1)), [9, -4, -1], atol=1e-12)
    np.testing.assert_allclose(moved.max(axis=(0, 1)), [11, 4, 1], atol=1e-12)
    assert prepare(trimesh.load(path)).tobytes() == prepare(path).tobytes()


def test_points_and_lines_of_a_scene_are_left_out() -> None:
    scene = trimesh.Scene([PointCloud(CORNERS * 9), trimesh.Trimesh(CORNERS, FACES, process=False)])
    assert prepare(scene).tobytes() == prepare(cube()).tobytes()


def test_a_mesh_is_left_alone() -> None:
    mesh = trimesh.Trimesh(CORNERS * 7, FACES, process=False)
    before = mesh.vertices.tobytes()
    prepare(mesh)
    assert mesh.vertices.tobytes() == before


def test_a_vertex_that_no_face_uses_does_not_matter() -> None:
    assert prepare(cube(vertices=np.vstack([CORNERS, [np.nan, 1, 1]]))).tobytes() == prepare(cube()).tobytes()


def test_textures_inside_a_file_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(Image, "open", opened.append)
    textured = glb(
        images=[{"bufferView": 0, "mimeType": "image/png"}],
        textures=[{"source": 0}],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
    )
    assert prepare(write(tmp_path, ".glb", textured)).tobytes() == prepare(cube()).tobytes()
    assert opened == []


def test_duplicate_vertices_are_not_merged(tmp_path: Path) -> None:
    """Merging would reorder the faces; an STL holds three vertices to each."""
    path = cube_file(tmp_path, ".stl")
    np.testing.assert_array_equal(load_corners(path), CORNERS[FACES])


def test_no_other_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    (tmp_path / "near.mtl").write_text("newmtl red\nmap_Kd near.png\n")
    (tmp_path / "near.png").write_bytes(b"x")
    textured = ply().replace("element vertex", "comment TextureFile near.png\nelement vertex")
    items = [write(tmp_path, ".obj", obj(head="mtllib near.mtl\nusemtl red\n")), write(tmp_path, ".ply", textured)]
    opened = []
    for resolver in (trimesh.resolvers.FilePathResolver, trimesh.resolvers.WebResolver):
        monkeypatch.setattr(resolver, "__init__", lambda _, source, *rest: opened.append(source))
    for item in items:
        assert prepare(item).tobytes() == prepare(cube()).tobytes()
    assert opened == []
    assert capfd.readouterr() == ("", "")


NAN_ROWS = ["nan nan nan", *ROWS[1:]]
BAD_FILES = {
    "empty": (".ply", b"", "the file is empty"),
    "blank": (".obj", b" \n\n", "the file is empty"),
    "garbage obj": (".obj", b"\xff\xfe\x00garbage", "no faces|cannot be read"),
    "garbage off": (".off", b"\xff\xfe\x00garbage", "does not begin"),
    "garbage ply": (".ply", b"\xff\xfe\x00garbage", "header of a PLY"),
    "garbage stl": (".stl", b"\xff\xfe\x00garbage" * 20, "truncated or not STL"),
    "garbage glb": (".glb", b"\xff\xfe\x00garbage" * 20, "not a GLB file"),
    "stub glb": (".glb", b"glTF", "cannot be read"),
    "other format": (".mesh", b"x", r"\.mesh is not a format that is read; give \.obj, \.off, \.ply, \.stl, \.glb"),
    "obj without faces": (".obj", obj(" "), "points and no faces; .* give them as an array"),
    "ply without faces": (".ply", ply(faces=0), "points and no faces; .* give them as an array"),
    "off without faces": (".off", off("OFF\n8 0 0", []), "no faces"),
    "obj vertex 0": (".obj", obj("f 0 1 2"), "OBJ counts from 1"),
    "obj too far": (".obj", obj("f 1 2 9"), "cannot be read"),
    "obj too far back": (".obj", obj("f -9 -2 -1"), "cannot be read"),
    "obj between": (".obj", obj("f -3 -2 -1\nv 0 0 0"), "negative indices between"),
    "obj comment": (".obj", obj("f 1 2 3 # 0"), "cannot be read"),
    "obj tabs": (".obj", obj("f 1 2 3\nf\t1 2 4"), "announces 2 faces, and 1"),
    "off too far": (".off", off(faces=[(0, 1, 8)] * 12), "cannot be read|name vertices"),
    "off negative": (".off", off(faces=[(0, 1, -1)] * 12), "cannot be read|name vertices"),
    "off cut": (".off", off(faces=FACES[:-1]), "announces 20 vertices and faces, and holds 19"),
    "off cut line": (".off", off()[:-4], "announces 12 faces, and 11"),
    "off cut quads": (".off", off("OFF\n8 6 0", QUADS[:4]), "announces 14 vertices and faces, and holds 12"),
    "off claim": (".off", off("OFF\n1000000000000 1000000000000 0"), "cannot be read|announces"),
    "off 4d": (".off", off("4OFF\n8 12 0"), "three dimensions"),
    "ply magic": (".ply", "x" + ply(), "header of a PLY"),
    "ply too far": (".ply", ply(vertices=8).replace("3 0 1 3", "3 0 1 8"), "name vertices 0 to 8 of 8"),
    "ply negative": (".ply", ply().replace("3 0 1 3", "3 0 1 -1"), "name vertices -1 to 7"),
    "ply cut": (".ply", ply()[:-8], "announces 20 vertices and faces, and holds 19"),
    "ply cut line": (".ply", ply()[:-4], "announces 12 faces, and 11"),
    "ply digits": (".ply", ply().replace("face 12", "face " + "9" * 5000), "cannot be read"),
    "ply claim": (".ply", ply(vertices=10**12), "announces|cannot be read|no faces"),
    "ply nan": (".ply", ply(rows=NAN_ROWS), "NaN or infinity"),
    "obj nan": (".obj", obj().replace(ROWS[0], "nan 1 1"), "NaN or infinity"),
    "stl cut": (".stl", ascii_stl()[:-40], "truncated"),
    "stl facet cut": (".stl", ascii_stl().replace("vertex", "vortex", 3), "announces 12 faces, and 11"),
    "stl claim": (".stl", b"\0" * 80 + b"\xff" * 4 + b"\0" * 50, "truncated or not STL"),
    "stl none": (".stl", b"\0" * 84, "no faces"),
    "glb cut": (".glb", glb()[:-5], "truncated"),
    "glb of points": (".glb", glb(meshes=[{"primitives": [{"mode": 0, "attributes": {"POSITION": 0}}]}]), "no faces"),
    "glb of fans": (".glb", glb(meshes=[{"primitives": [{"mode": 6, "attributes": {"POSITION": 0}}]}]), "fans"),
    "glb without meshes": (".glb", glb(meshes=[], nodes=[{}]), "no faces"),
    "glb too far": (".glb", with_accessor(0, count=7), "name vertices 0 to 7 of 7"),
    "glb short": (".glb", with_accessor(0, count=9), "cannot be read"),
    "glb claim": (".glb", with_accessor(0, count=10**12, bufferView=None), "more vertices than"),
    "glb without data": (".glb", with_accessor(0, bufferView=None), "stored sparsely"),
    "glb sparse": (".glb", with_accessor(0, sparse={"count": 1}), "stored sparsely"),
    "glb normalised": (".glb", with_accessor(0, normalized=True), "normalised"),
    "glb elsewhere": (".glb", glb(buffers=[{"byteLength": 9, "uri": "https://127.0.0.1/x"}]), "another file"),
    "glb compressed": (".glb", glb(extensionsRequired=["KHR_draco_mesh_compression"]), "needs KHR_draco"),
    "glb nested": (".glb", pack_glb("[" * 100_000, b""), "cannot be read"),
    "glb transform": (
        ".glb",
        glb(nodes=[{"mesh": 0, "scale": [1e308] * 3, "translation": [1.7e308] * 3}]),
        "NaN or infinity",
    ),
    "glb circle": (".glb", glb(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "in a circle"),
    "glb depth": (".glb", glb(nodes=[*({"children": [i]} for i in range(1, 66)), {"mesh": 0}]), "more than 64 deep"),
    "degenerate": (".obj", obj("f 1 1 2\nf 3 3 3"), "no area"),
}


@pytest.mark.parametrize(("suffix", "text", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_say_why(suffix: str, text: Any, reason: str, tmp_path: Path, capfd: Any) -> None:
    path = write(tmp_path, suffix, text)
    with pytest.raises(UnusableItemError, match=reason) as caught:
        prepare(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


TOO_LARGE = "squares overflow; give it in a larger unit"
BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "no path": ("", "the path is empty"),
    "no file": (Path("no/such/file.ply"), "no such file"),
    "url": ("https://127.0.0.1/mesh.ply", "no such file"),
    "folder": (Path(__file__).parent, "folder"),
    "no suffix": (Path(__file__), r"\.py is not a format"),
    "null byte": ("a\0.ply", "cannot be read"),
    "number": (17, "int is not a mesh or a point cloud"),
    "none": (None, "NoneType is not a mesh"),
    "list": ([[0, 0, 0]] * 9, "list is not a mesh"),
    "bytes": (b"ply", "bytes is not a mesh"),
    "flat": (np.zeros(12), r"float64 \[12\] is not a point cloud; give \[n, 3\]"),
    "two columns": (np.zeros((12, 2)), r"float64 \[12, 2\] is not a point cloud"),
    "stack": (np.zeros((2, 12, 3)), r"\[2, 12, 3\] is not a point cloud"),
    "complex": (np.zeros((12, 3), complex), "complex128"),
    "bool": (np.zeros((12, 3), bool), "bool"),
    "object": (np.zeros((12, 3), object), "object"),
    "no points": (np.zeros((0, 3)), "it has 0 points, and the model takes 4 or more"),
    "few points": (np.eye(3), "it has 3 points, and the model takes 4 or more"),
    "nan": (np.full((9, 3), np.nan), "NaN or infinity"),
    "infinity": (np.where(np.arange(9)[:, None] == 3, np.inf, np.zeros(3)), "NaN or infinity"),
    "one place": (np.full((9, 3), 0.1), "at one place"),
    "long double": (np.full((9, 3), np.longdouble("1e4000")), "NaN or infinity"),
    "tiny cloud": (np.eye(4, 3) * 1e-160, "underflow; give it in a smaller unit"),
    "huge cloud": (np.eye(4, 3) * 1e200, TOO_LARGE),
    "huger cloud": (np.array([[1e308, 0, 0], [-1e308, 0, 0]] * 2), TOO_LARGE),
    "huge mesh": (cube(vertices=CORNERS * 1e100), TOO_LARGE),
    "huger mesh": (cube(vertices=CORNERS * 1e308), TOO_LARGE),
    "nan mesh": (cube(vertices=np.where(CORNERS > 0, CORNERS, np.nan)), "NaN or infinity"),
    "faces out": (cube(vertices=CORNERS[:7]), "name vertices 0 to 7 of 7"),
    "faces negative": (cube(faces=FACES - 1), "name vertices -1 to 6"),
    "no faces": (cube(faces=FACES[:0]), "points and no faces"),
    "no vertices": (cube(vertices=CORNERS[:0], faces=FACES[:0]), "no faces"),
    "no vertices but faces": (cube(vertices=CORNERS[:0]), "name vertices 0 to 7 of 0"),
    "points": (PointCloud(CORNERS), "points and no faces; .* give them as an array"),
    "quads": (cube(faces=np.array(QUADS)), r"faces are int64 \[6, 4\]"),
    "float faces": (cube(faces=FACES * 1.0), "faces are float64"),
    "flat mesh": (cube(vertices=CORNERS[:, :2]), r"vertices are float64 \[8, 2\]"),
    "text mesh": (cube(vertices=CORNERS.astype(str)), "vertices are <U"),
    "ragged mesh": (cube(faces=[[0, 1, 2], [1, 2]]), "cannot be read as a mesh"),
    "no area": (cube(faces=FACES[:, [0, 0, 0]]), "no area, because every face is degenerate"),
    "no scene": (trimesh.Scene(), "no faces"),
    "point scene": (trimesh.Scene(PointCloud(CORNERS)), "points or lines and no faces"),
}


@pytest.mark.parametrize(("item", "reason"), BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_unusable_items_say_why(item: Any, reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        prepare(item)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = cube_file(tmp_path, ".stl")
    monkeypatch.setattr(Path, "read_bytes", refuse)  # a mode would not stop root
    with pytest.raises(UnusableItemError, match="no permission"):
        prepare(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ply")
    with pytest.raises(UnusableItemError, match="not a regular file"):
        prepare(tmp_path / "pipe.ply")


def test_a_scene_that_repeats_a_mesh_beyond_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"mesh": 0} for _ in range(10)]
    path = write(tmp_path, ".glb", glb(nodes=nodes, scenes=[{"nodes": list(range(10))}]))
    monkeypatch.setattr(mesh_module, "MAX_PLACED_TRIANGLES", 120)
    assert len(load_corners(path)) == 120
    monkeypatch.setattr(mesh_module, "MAX_PLACED_TRIANGLES", 119)
    with pytest.raises(UnusableItemError, match="12 triangles so often that they become 120"):
        prepare(path)
    monkeypatch.setattr(mesh_module, "MAX_PLACED_TRIANGLES", 3)
    assert len(load_corners(cube_file(tmp_path, ".glb"))) == 12


def test_without_trimesh_files_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an UnusableItemError: skipping would leave every file out, one by one."""
    path = cube_file(tmp_path, ".ply")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedding-backbones\[mesh\]'"):
        prepare(path)
    assert prepare(cube()).shape == (256, 3)


def test_warnings_of_trimesh_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("string or file could not be read to its end", DeprecationWarning, stacklevel=1)
        return cube()

    monkeypatch.setattr(trimesh, "load", load)
    before = list(warnings.filters)
    with pytest.raises(UnusableItemError, match="could not be read to its end"):
        prepare(write(tmp_path, ".ply", ply()))
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_points": 1}, "min_points 1 is not from 2 to num_points 256"),
        ({"min_points": 257}, "min_points 257"),
        ({"num_points": 0}, "num_points 0"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**32}, "seed 4294967296"),
    ],
)
def test_impossible_records_are_refused(changes: dict[str, int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        prepare(cube(), **changes)


def test_the_record_is_read_back_as_it_was_written() -> None:
    document = json.loads(json.dumps(vars(RECIPE)))
    assert decode(PointCloudPreprocessing, document, "preprocessing") == RECIPE
    with pytest.raises(ManifestError, match="scaling is 'box' instead of 'farthest_point'"):
        decode(PointCloudPreprocessing, document | {"scaling": "box"}, "preprocessing")


def test_the_largest_seed_is_taken() -> None:
    assert prepare(cube(), seed=2**32 - 1).shape == (256, 3)


def test_equal_points_far_away_are_not_scaled_up() -> None:
    """The mean of equal numbers can differ from them in the last bit, and that bit must not become a cloud."""
    with pytest.raises(UnusableItemError, match="at one place"):
        center_and_scale(np.full((1000, 3), 1e6 + 0.1))
