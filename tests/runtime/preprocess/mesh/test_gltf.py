"""Test the buffers of glTF files: inside, and beside them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.triangles import load_corners
from tests.runtime.preprocess.cube import CORNERS, FACES, glb, gltf, pack_glb, split_glb, write

DOCUMENT, BUFFER = split_glb(glb())


def beside(folder: Path, name: str, uri: str | None = None) -> Path:
    """Write a cube whose buffer is in the file ``name``, which the document calls ``uri``."""
    (folder / name).write_bytes(BUFFER)
    return write(folder, ".gltf", gltf(uri or name))


def inside(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("name", "uri"), [("a.bin", None), ("a b.bin", "a%20b.bin"), ("ä.bin", "%C3%A4.bin"), ("a.bin", "./a.bin")]
)
def test_a_buffer_may_be_a_file_beside(name: str, uri: str | None, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_corners(beside(tmp_path, name, uri)), CORNERS[FACES])


def test_a_relative_path_finds_the_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = beside(tmp_path, "a.bin")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(load_corners(path.name), CORNERS[FACES])


@pytest.mark.parametrize("suffix", [".gltf", ".glb"])
def test_buffers_may_be_mixed(suffix: str, tmp_path: Path) -> None:
    """The positions are in the first buffer, which is the file's own in GLB, and the indices in another one."""
    (tmp_path / "i.bin").write_bytes(BUFFER[96:] + b"more")
    views = [{"buffer": 0, "byteLength": 96}, {"buffer": 1, "byteLength": 72}]
    buffers: list[dict[str, Any]] = [{"byteLength": 96, "uri": inside(BUFFER[:96])}, {"byteLength": 72, "uri": "i.bin"}]
    if suffix == ".glb":
        del buffers[0]["uri"]
    text = json.dumps(DOCUMENT | {"buffers": buffers, "bufferViews": views})
    path = write(tmp_path, suffix, pack_glb(text, BUFFER[:96]) if suffix == ".glb" else text)
    np.testing.assert_array_equal(load_corners(path), CORNERS[FACES])


def test_a_data_uri_need_not_be_base64(tmp_path: Path) -> None:
    path = write(tmp_path, ".gltf", gltf("data:," + quote(BUFFER)))
    np.testing.assert_array_equal(load_corners(path), CORNERS[FACES])


@pytest.mark.parametrize(
    "uri",
    [
        "../out.bin",
        "%2e%2e/out.bin",
        "..",
        ".",
        "",
        "sub/in.bin",
        "..\\out.bin",
        "link.bin",
        "file:///etc/hostname",
        "/etc/hostname",
        "https://127.0.0.1/x.bin",
        "c:x.bin",
    ],
)
def test_no_file_elsewhere_is_read(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "meshes"
    (folder / "sub").mkdir(parents=True)
    for name in ("out.bin", "meshes/sub/in.bin"):
        (tmp_path / name).write_bytes(BUFFER)
    (folder / "link.bin").symlink_to(tmp_path / "out.bin")
    path = write(folder, ".gltf", gltf(uri or "empty").replace('"empty"', '""'))
    read = Path.read_bytes
    opened: list[Path] = []

    def spy(path: Path) -> bytes:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", spy)
    with pytest.raises(UnusableItemError, match="is not a file of its folder"):
        load_corners(path)
    assert opened == [path]


def two_buffers(second: str) -> str:
    size = {"byteLength": len(BUFFER)}
    return json.dumps(DOCUMENT | {"buffers": [size | {"uri": "a.bin"}, size | {"uri": second}]})


VIEWS = [{"buffer": 0, "byteLength": 96}, {"buffer": 0, "byteOffset": 96, "byteLength": 73}]
BAD_FILES = {
    "missing": (gltf("b.bin"), "there is no such file"),
    "folder": (gltf("folder"), "it is a folder"),
    "twice": (two_buffers("./a.bin"), "is not a file of its folder"),
    "short": (gltf("short.bin"), "buffer 0 is shorter"),
    "no uri": (json.dumps(DOCUMENT), "buffer 0 is shorter"),
    "damaged base64": (gltf("data:;base64,AAA!"), "cannot be read"),
    "view": (gltf(bufferViews=VIEWS), "bytes that its buffer does not have"),
    "negative view": (
        gltf(bufferViews=[VIEWS[0] | {"byteOffset": -4}, VIEWS[1]]),
        "bytes that its buffer does not have",
    ),
    "version 1": (gltf(asset={"version": "1.0"}), "not glTF of version 2"),
    "nothing": ("{}", "cannot be read"),
    "not JSON": ("glTF", "cannot be read"),
    "nested": ("[" * 100_000, "cannot be read"),
}


@pytest.mark.parametrize(("text", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_say_why(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "short.bin").write_bytes(BUFFER[:-1])
    (tmp_path / "a.bin").write_bytes(BUFFER)
    with pytest.raises(UnusableItemError, match=reason) as caught:
        load_corners(write(tmp_path, ".gltf", text))
    assert "\n" not in str(caught.value)
