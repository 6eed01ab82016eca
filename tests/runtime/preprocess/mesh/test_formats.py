"""Test which mesh files are read, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.formats import FORMATS
from runtime.preprocess.mesh.triangles import load_corners
from tests.runtime.preprocess.cube import (
    CORNERS,
    FACES,
    QUADS,
    ROWS,
    ascii_stl,
    assert_on_the_cube,
    binary_stl,
    cube,
    cube_file,
    glb,
    gltf,
    obj,
    off,
    ply,
    prepare,
    write,
)


@pytest.mark.parametrize("suffix", FORMATS)
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
        (".obj", "\ufeff" + obj()),
        (".obj", obj().replace("v ", "v\t")),
        (".obj", obj().replace("f ", "f\t")),
        (".obj", obj().replace("v ", "  v ").replace("f ", "\tf ")),
        (".obj", obj().replace("\n", " # 0 -1\n")),
        (".obj", obj().replace("\n", "\r")),
        (".obj", obj().replace("\n", " 0.5 0.5 0.5\n", 3)),
        (".obj", obj().replace("f ", "f \\\n ")),
        (".obj", obj().encode("utf-16")),
        (".off", off()),
        (".off", "\ufeff" + off()),
        (".off", "\t  " + off("OFF8 12 0 # glued")),
        (".off", off("OFF8 12 0").replace("\n", "\r")),
        (".off", off("OFF\n8 12").replace("\n", "   # 7\n \n")),
        (".off", off("STCNOFF 8 12 0")),
        (".off", off("# a comment\nOFF 8 12 0")),
        (".off", off("# a comment\n\nOFF # another\n# and one more\n8 12 0 # counts")),
        (".off", off("COFF\n\n8 12 0")),
        (".ply", ply()),
        (".ply", trimesh.Trimesh(CORNERS, FACES, process=False).export(file_type="ply", encoding="ascii")),
        (".stl", ascii_stl()),
        (".stl", ascii_stl().upper()),
        (".stl", "\ufeff" + ascii_stl()),
        (".stl", ascii_stl().replace("\n", "\r")),
        (".stl", ascii_stl().replace("solid cube", "solid a vertex, a normal and an endfacet")),
        (".stl", ascii_stl().replace("\nendfacet", " endfacet").replace("\nvertex", " vertex")),
        (".stl", binary_stl(b"\r\n")),
        (".stl", binary_stl(b"x" * 49)),
        (".stl", binary_stl(bytes(1000))),
        (".gltf", gltf()),
        (".gltf", "\ufeff" + gltf()),
        (".glb", glb()),
        (".glb", glb(nodes=[*({"children": [i]} for i in range(1, 1000)), {"mesh": 0}])),
        (".glb", glb(extensionsRequired=["KHR_materials_unlit"])),
    ],
)
def test_variants_of_the_formats_give_the_same_points(suffix: str, text: str | bytes, tmp_path: Path) -> None:
    points = prepare(write(tmp_path, suffix, text))
    assert points.tobytes() == prepare(cube()).tobytes()


def test_negative_indices_count_back_from_their_face(tmp_path: Path) -> None:
    """Each triangle follows its three vertices."""
    corners = CORNERS[FACES]
    parts = ("".join(f"v {x} {y} {z}\n" for x, y, z in corner) + "f -3/1 -2/2 -1/3\n" for corner in corners)
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".obj", "".join(parts))), corners)


BALL: Any = trimesh.creation.icosphere(subdivisions=2)
SCENE: Any = trimesh.Scene([BALL, BALL.copy().apply_translation([1, 2, 3])])
PLANE = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 3 0\nv 0 1 0\nv 1 1 5\n"
TURN = [0.5, -0.1, 0.7, 0.5]  # 1 long
NODES = [
    {"children": [1], "translation": [1, 2, 3], "rotation": TURN},
    {"mesh": 0, "scale": [1, 2, 0.5], "rotation": TURN[::-1]},
    {"mesh": 0, "matrix": [0, 2, 0, 0, -1, 0, 0, 0, 0, 0, 3, 0, 5, 6, 7, 1]},
]
UNCHANGED: dict[str, tuple[str, str | bytes]] = {
    "obj": (".obj", BALL.export(file_type="obj")),
    "obj normals": (".obj", BALL.export(file_type="obj", include_normals=True)),
    "obj quads": (".obj", obj("\n".join("f " + " ".join(str(index + 1) for index in quad) for quad in QUADS))),
    "obj mixed": (".obj", PLANE + "f 1 2 3 4 5\nf 1 2 6\nf 1 2 3 5\nf 3 4 6\nf 2 3 4 5\n"),
    "off": (".off", BALL.export(file_type="off")),
    "off quads": (".off", off("OFF\n8 6 0", QUADS)),
    "off mixed": (".off", off("OFF\n8 10 0", [QUADS[0], *FACES[2:4], (0, 2, 4), *QUADS[1:], (0, 1, 3)])[:-1]),
    "ply": (".ply", BALL.export(file_type="ply")),
    "ply text": (".ply", BALL.export(file_type="ply", encoding="ascii")),
    "ply normals": (".ply", BALL.export(file_type="ply", vertex_normal=True)),
    "ply quads": (".ply", ply(faces=6, triangles=QUADS)),
    "ply mixed": (".ply", ply(faces=8, triangles=[QUADS[0], *FACES[2:4], *QUADS[1:]])),
    "stl": (".stl", BALL.export(file_type="stl")),
    "stl text": (".stl", BALL.export(file_type="stl_ascii")),
    "glb": (".glb", BALL.export(file_type="glb")),
    "glb scene": (".glb", SCENE.export(file_type="glb")),
    "glb nodes": (".glb", glb(nodes=NODES, scenes=[{"nodes": [0, 2]}])),
    "glb strip": (".glb", glb(meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 5}]}])),
}


@pytest.mark.parametrize(("suffix", "text"), UNCHANGED.values(), ids=UNCHANGED)
def test_trimesh_reads_the_same_triangles(suffix: str, text: Any, tmp_path: Path) -> None:
    """It gives them in another order, and cuts only convex polygons rightly."""
    path = write(tmp_path, suffix, text)
    loaded: Any = trimesh.load(path, process=False)
    ours, trimeshs = (ordered(load_corners(item)) for item in (path, loaded))
    assert ours == trimeshs
    assert ours


def ordered(corners: Array) -> Any:
    return sorted(sorted(map(tuple, triangle)) for triangle in corners.round(6).tolist())


@pytest.mark.parametrize("suffix", FORMATS)
def test_extensions_may_be_capitals_and_paths_strings(suffix: str, tmp_path: Path) -> None:
    path = cube_file(tmp_path, suffix)
    capital = path.rename(path.with_suffix(suffix.upper()))
    assert prepare(str(capital)).tobytes() == prepare(cube()).tobytes()


def test_duplicate_vertices_are_not_merged(tmp_path: Path) -> None:
    """Merging would reorder the faces: an STL file has three vertices for each face."""
    path = cube_file(tmp_path, ".stl")
    np.testing.assert_array_equal(load_corners(path), CORNERS[FACES])


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
    "other format": (
        ".mesh",
        b"x",
        r"\.mesh is not a supported format; give \.obj, .*, \.gltf",
    ),
    "obj without faces": (".obj", obj(" "), "points and no faces; .* give them as an array"),
    "ply without faces": (".ply", ply(faces=0, triangles=[]), "points and no faces; .* give them as an array"),
    "off without faces": (".off", off("OFF\n8 0 0", []), "no faces"),
    "obj vertex 0": (".obj", obj("f 0 1 2"), "OBJ counts from 1"),
    "obj too far": (".obj", obj("f 1 2 9"), "name vertices 0 to 8 of 8"),
    "obj too far back": (".obj", obj("f -9 -2 -1"), "name vertices -1 to 7"),
    "obj number": (".obj", obj().replace(ROWS[0], "1_0 1 1"), "cannot be read"),
    "obj slash": (".obj", obj("f 1 /2 3 4"), "cannot be read"),
    "obj two corners": (".obj", obj("f 1 2 3\nf 1 2"), "a face of 2 corners"),
    "obj two coordinates": (".obj", obj().replace(ROWS[0], "1 1"), "fewer than three coordinates"),
    "obj patch": (".obj", obj(head="surf 0 1 0 1 1 2 3\n"), "'surf' statements"),
    "obj of other files": (".obj", obj(head="call other.obj\n"), "'call' statements"),
    "off too far": (".off", off(faces=[(0, 1, 8)] * 12), "cannot be read|name vertices"),
    "off negative": (".off", off(faces=[(0, 1, -1)] * 12), "cannot be read|name vertices"),
    "off cut": (".off", off(faces=FACES[:-1]), "announces 20 vertices and faces, and holds 19"),
    "off cut line": (".off", off()[:-4], "fewer corners than it announces"),
    "off rows": (".off", off("OFF\n8 11 0"), "announces 19 vertices and faces, and holds 20"),
    "off binary": (".off", off("OFF BINARY\n8 12 0"), "text OFF"),
    "off cut quads": (".off", off("OFF\n8 6 0", QUADS[:4]), "announces 14 vertices and faces, and holds 12"),
    "off claim": (".off", off("OFF\n1000000000000 1000000000000 0"), "cannot be read|announces"),
    "off 4d": (".off", off("4OFF\n8 12 0"), "three dimensions"),
    "ply magic": (".ply", "x" + ply(), "header of a PLY"),
    "ply too far": (".ply", ply(vertices=8).replace("3 0 1 3", "3 0 1 8"), "name vertices 0 to 8 of 8"),
    "ply negative": (".ply", ply().replace("3 0 1 3", "3 0 1 -1"), "name vertices -1 to 7"),
    "ply cut": (".ply", ply()[:-8], "announces 20 vertices and faces, and holds 19"),
    "ply cut line": (".ply", ply()[:-4], "announces 12 rows of 'face', which are not all there"),
    "ply digits": (".ply", ply().replace("face 12", "face " + "9" * 5000), "cannot be read"),
    "ply claim": (".ply", ply(vertices=10**12), "announces|cannot be read|no faces"),
    "ply nan": (".ply", ply(rows=NAN_ROWS), "NaN or infinity"),
    "obj nan": (".obj", obj().replace(ROWS[0], "nan 1 1"), "NaN or infinity"),
    "stl cut": (".stl", ascii_stl()[:-40], "truncated"),
    "stl facet cut": (".stl", ascii_stl().replace("vertex", "vortex", 3), "a facet does not have three vertices"),
    "stl claim": (".stl", b"\0" * 80 + b"\xff" * 4 + b"\0" * 50, "truncated or not STL"),
    "stl more": (".stl", binary_stl(b"x" * 50), "announces 12 triangles, and 50 bytes follow"),
    "stl quads": (
        ".stl",
        ascii_stl().replace("endloop", "vertex 0 0 0\nendloop", 3),
        "a facet does not have three vertices",
    ),
    "stl number": (".stl", ascii_stl().replace("vertex 1.0", "vertex 1_0"), "cannot be read"),
    "stl vertex behind": (".stl", ascii_stl() + "vertex 0 0 0\n", "a facet does not have three vertices"),
    "stl none": (".stl", b"\0" * 84, "no faces"),
    "degenerate": (".obj", obj("f 1 1 2\nf 3 3 3"), "no area"),
}


@pytest.mark.parametrize(("suffix", "text", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_say_why(suffix: str, text: Any, reason: str, tmp_path: Path, capfd: Any) -> None:
    path = write(tmp_path, suffix, text)
    with pytest.raises(UnusableItemError, match=reason) as caught:
        prepare(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = cube_file(tmp_path, ".stl")
    monkeypatch.setattr(Path, "read_bytes", refuse)  # root ignores file modes
    with pytest.raises(UnusableItemError, match="no permission"):
        prepare(path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ply")
    with pytest.raises(UnusableItemError, match="not a regular file"):
        prepare(tmp_path / "pipe.ply")


@pytest.mark.parametrize(("suffix", "text"), [(".obj", obj()), (".off", off()), (".ply", ply()), (".stl", ascii_stl())])
def test_an_unreadable_number_that_numpy_only_warns_of_is_refused(
    suffix: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numpy does before 2.4, where ``fromstring`` stops at the first such number."""
    read = np.fromstring
    monkeypatch.setattr(np, "fromstring", lambda *arguments, **options: read(*arguments, **options)[:-1])
    with pytest.raises(UnusableItemError, match="a number cannot be read"):
        prepare(write(tmp_path, suffix, text))


BAD_PATHS: dict[str, tuple[Any, str]] = {
    "no path": ("", "the path is empty"),
    "no file": (Path("no/such/file.ply"), "no such file"),
    "url": ("https://127.0.0.1/mesh.ply", "no such file"),
    "folder": (Path(__file__).parent, "folder"),
    "no suffix": (Path(__file__), r"\.py is not a supported format"),
    "null byte": ("a\0.ply", "cannot be read"),
}


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_unusable_paths_say_why(path: Any, reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        prepare(path)
