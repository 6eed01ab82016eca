"""Test PLY files of mixed polygons, strips and unusual headers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.polygons import triangle_areas
from runtime.preprocess.mesh.triangles import load_corners
from tests.runtime.preprocess.cube import CORNERS, FACES, QUADS, ply, write

MIXED = [QUADS[0], *map(tuple, FACES[2:4].tolist()), *QUADS[2:]]
STRIP = [0, 1, 2, 3, 6, 7, 4, 5, 0, 1, -1, 0, 2, 4, 6, -1, 1, 5, 3, 7]


def binary(
    faces: Any, order: str = "<", end: str = "\n", rest: bytes = b"", names: str = "face vertex_indices"
) -> bytes:
    """Return the cube with a colour behind every vertex, and a byte before and a list of floats behind every face."""
    element, index = names.split()
    head = f"ply\nformat binary_{'little' if order == '<' else 'big'}_endian 1.0\nelement vertex 8\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "property uchar red\n"
    head += f"element {element} {len(faces)}\nproperty char flag\nproperty list uchar int {index}\n"
    head += "property list uchar float texcoord\nelement extra 1\nproperty ushort any\nend_header\n"
    data = [struct.pack(f"{order}3fB", *corner, 7) for corner in CORNERS]
    for face in faces:
        data.append(struct.pack(f"{order}bB{len(face)}i", 1, len(face), *face))
        data.append(struct.pack(f"{order}B{len(face) * 2}f", len(face) * 2, *[0.5] * len(face) * 2))
    return head.replace("\n", end).encode() + b"".join(data) + b"\x0a\x0d" + rest


def total_area(path: Path) -> float:
    return float(triangle_areas(load_corners(path)).sum())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("faces", [FACES, QUADS, MIXED, MIXED[::-1]], ids=["triangles", "quads", "mixed", "reversed"])
def test_binary_files_of_any_polygons_are_read(faces: Any, order: str, end: str, tmp_path: Path) -> None:
    corners = load_corners(write(tmp_path, ".ply", binary(faces, order, end)))
    assert len(corners) == 12
    assert triangle_areas(corners).sum() == 24
    if faces is FACES:
        np.testing.assert_array_equal(corners, CORNERS[FACES])


def test_text_and_binary_files_have_the_same_triangles(tmp_path: Path) -> None:
    text = load_corners(write(tmp_path, ".ply", ply(faces=len(MIXED), triangles=MIXED)))
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".ply", binary(MIXED))), text)


@pytest.mark.parametrize("strips", [[STRIP], [STRIP[:10], STRIP[11:15], [], STRIP[16:]]], ids=["marked", "apart"])
def test_triangle_strips_are_read(strips: Any, tmp_path: Path) -> None:
    data = binary(strips, names="tristrips vertex_indices")
    assert total_area(write(tmp_path, ".ply", data)) == 24
    text = ply(faces=len(strips), triangles=strips).replace("element face", "element tristrips")
    assert total_area(write(tmp_path, ".ply", text)) == 24


def test_only_the_last_line_of_a_header_may_end_otherwise(tmp_path: Path) -> None:
    data = binary(FACES).replace(b"end_header\n", b"end_header\r\n")
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".ply", data)), CORNERS[FACES])


@pytest.mark.parametrize("text", ["\ufeff" + ply(), ply().replace("\n", "\r"), ply().replace("\n", "\n \n")])
def test_text_files_of_unusual_lines_are_read(text: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".ply", text)), CORNERS[FACES])


def test_a_single_list_may_have_any_name(tmp_path: Path) -> None:
    text = ply().replace("vertex_indices", "corners")
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".ply", text)), CORNERS[FACES])


BAD_FILES: dict[str, tuple[bytes | str, str]] = {
    "cut": (binary(MIXED)[:-3], "announces 7 rows of 'face'|announces 1 rows of 'extra'"),
    "cut mixed": (binary(MIXED)[:-30], "announces 7 rows of 'face', which are not all there"),
    "cut vertices": (binary(MIXED)[:-600], "announces 8 rows of 'vertex'|header"),
    "more": (binary(MIXED, rest=b"x"), "1 bytes follow the rows"),
    "strip too far": (binary([[0, 1, 2, 8]], names="tristrips vertex_indices"), "name vertices 0 to 8 of 8"),
    "strip mark": (binary([[0, 1, 2, -2]], names="tristrips vertex_indices"), "name vertices -2"),
    "two corners": (binary([[0, 1]]), "a face of 2 corners"),
    "text more": (ply(faces=11), "announces 19 vertices and faces, and holds 20"),
    "text list": (ply().replace("3 0 1 3", "3.5 0 1 3"), "announces 12 rows of 'face'"),
    "text long list": (ply().replace("3 0 1 3", "1000000000000 0 1 3"), "announces 12 rows of 'face'"),
    "twice": (ply().replace("end_header", "element face 0\nend_header"), "header is damaged"),
    "no format": (ply().replace("format ascii 1.0\n", ""), "cannot be read|header is damaged"),
    "negative count": (ply().replace("element face 12", "element face -12"), "header is damaged"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_damaged_files_say_why(data: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        load_corners(write(tmp_path, ".ply", data))
