"""Test which GLB files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.preprocess.item import UnusableItemError
from tests.runtime.preprocess.cube import glb, pack_glb, prepare, with_accessor, write

BAD_FILES: dict[str, tuple[bytes, str]] = {
    "cut": (glb()[:-5], "truncated"),
    "of points": (glb(meshes=[{"primitives": [{"mode": 0, "attributes": {"POSITION": 0}}]}]), "no faces"),
    "of fans": (glb(meshes=[{"primitives": [{"mode": 6, "attributes": {"POSITION": 0}}]}]), "fans"),
    "without meshes": (glb(meshes=[], nodes=[{}]), "no faces"),
    "too far": (with_accessor(0, count=7), "name vertices 0 to 7 of 7"),
    "short": (with_accessor(0, count=9), "cannot be read"),
    "claim": (with_accessor(0, count=10**12, bufferView=None), "more vertices than"),
    "without data": (with_accessor(0, bufferView=None), "stored sparsely"),
    "sparse": (with_accessor(0, sparse={"count": 1}), "stored sparsely"),
    "normalised": (with_accessor(0, normalized=True), "normalised"),
    "elsewhere": (glb(buffers=[{"byteLength": 9, "uri": "https://127.0.0.1/x"}]), "another file"),
    "compressed": (glb(extensionsRequired=["KHR_draco_mesh_compression"]), "needs KHR_draco"),
    "nested": (pack_glb("[" * 100_000, b""), "cannot be read"),
    "transform": (
        glb(nodes=[{"mesh": 0, "scale": [1e308] * 3, "translation": [1.7e308] * 3}]),
        "NaN or infinity",
    ),
    "circle": (glb(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "in a circle"),
    "depth": (glb(nodes=[*({"children": [i]} for i in range(1, 66)), {"mesh": 0}]), "more than 64 deep"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_say_why(data: bytes, reason: str, tmp_path: Path, capfd: Any) -> None:
    path = write(tmp_path, ".glb", data)
    with pytest.raises(UnusableItemError, match=reason) as caught:
        prepare(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
