from __future__ import annotations

import base64
import tracemalloc

import pytest

from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.formats import read_mesh_bytes
from runtime.server.items import read_file, read_items
from runtime.server.request_errors import RequestError

OFF = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def test_meshes_are_known_by_their_type_or_extension() -> None:
    url = f"data:model/vnd.off;charset=utf-8;base64,{base64.b64encode(OFF).decode()}"
    (item,) = read_items({"mesh": url}, "input", 9)
    assert (item.kind, item.content, item.suffix) == ("mesh", OFF, ".off")
    assert read_file(OFF, "A.OFF", "").kind == "mesh"
    assert read_file(OFF, "a", "model/vnd.off").suffix == ".off"
    assert read_file(OFF, "a.gltf", "").suffix == read_file(OFF, "a", "model/gltf+json").suffix == ".gltf"
    for filename in ("a.png", "a.fbx", "a"):
        assert read_file(OFF, filename, "text/plain").kind == "image"
    assert len(read_mesh_bytes(item.content, item.suffix).faces) == 1


def test_base64_is_copied_once_while_it_is_decoded() -> None:
    url = f"data:image/png;base64,{'A' * (1 << 20)}"
    tracemalloc.start()
    (item,) = read_items({"image": url}, "input", 9)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1.8 * len(url)
    for damaged in (f"{url}A", f"{url}*", f"{url}Ж"):
        with pytest.raises(RequestError, match="is a damaged data URL"):
            read_items({"image": damaged}, "input", 9)
    assert len(item.content) == 3 << 18


def test_points_become_an_array() -> None:
    (item,) = read_items([{"points": [[0, 1, 2], [3, 4, 5.5]]}], "input", 9)
    assert item.kind == "mesh"
    assert item.content.tolist() == [[0, 1, 2], [3, 4, 5.5]]
    for wrong in ("1", True, None, [1]):
        with pytest.raises(RequestError, match="must be a list of points, each of three numbers"):
            read_items([{"points": [[0, 1, 2], [3, 4, wrong]]}], "input", 9)


def test_a_mesh_from_a_stranger_reads_no_file() -> None:
    gltf = b'{"asset": {"version": "2.0"}, "buffers": [{"uri": "passwd", "byteLength": 4}]}'
    with pytest.raises(UnusableItemError, match="passwd"):
        read_mesh_bytes(gltf, ".gltf")
    with pytest.raises(UnusableItemError, match="not a supported format"):
        read_mesh_bytes(gltf, ".txt")
    with pytest.raises(UnusableItemError, match="empty"):
        read_mesh_bytes(b" ", ".off")


def test_too_many_items_are_refused_before_any_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.server.items.read_item", None)
    with pytest.raises(RequestError, match="input has 4 items, and the server takes 3; send fewer"):
        read_items(["a"] * 4, "input", 3)
