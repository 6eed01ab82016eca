"""Meshes and point clouds over HTTP, from the file of a client to its vector."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.preprocess.mesh import formats, placement
from runtime.preprocess.mesh.formats import read_mesh_bytes
from runtime.server.items import ServerItem
from runtime.server.preparation import EmbedCall, Preparation
from runtime.server.request_errors import RequestError
from runtime.server.run import open_models, prepare_process
from runtime.server.settings import ServerSettings
from tests.runtime.preprocess.cube import CORNERS, glb, gltf, obj, off
from tests.runtime.server.conftest import CLIENT, Running, serving
from tests.runtime.server.test_openai_api import data_url
from tests.runtime.toy_artifact import write_mesh_artifact


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mesh_artifact(tmp_path_factory.mktemp("served") / "meshes")


@pytest.fixture(scope="module")
def server(meshes: Path, toy: Path) -> Iterator[Running]:
    """Serve the artifact as the second model of a server."""
    with serving(open_models({"toy": toy, "meshes": meshes}, ServerSettings())) as running:
        yield running


@pytest.fixture(scope="module")
def expected(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("files")
    for name, text in (("cube.obj", obj()), ("cube.off", off())):
        (folder / name).write_text(text)
    return np.asarray(runtime.load(meshes).embed([folder / "cube.obj", folder / "cube.off", CORNERS]))


def test_meshes_and_points_get_the_vectors_of_embed(server: Running, expected: np.ndarray) -> None:
    items = [
        {"mesh": data_url(obj().encode(), "model/obj")},
        {"mesh": data_url(off().encode(), "model/vnd.off")},
        {"points": CORNERS.tolist()},
    ]
    data = server.post("/v1/embeddings", {"model": "meshes", "input": items}).json()["data"]
    assert np.array_equal(np.array([each["embedding"] for each in data], np.float32), expected)


def test_a_form_takes_mesh_files(server: Running, expected: np.ndarray) -> None:
    files = [("files", ("cube.obj", obj().encode(), "application/octet-stream"))]
    form = {"model": "meshes", "normalize": "false"}
    response = CLIENT.post(f"{server.url}/embed", files=files, data=form)
    assert np.array_equal(np.array(response.json(), np.float32), expected[:1])


def test_a_gltf_holds_its_buffers_and_a_file_of_an_unknown_format_counts_as_an_image(
    server: Running, expected: np.ndarray
) -> None:
    def send(name: str, text: str) -> Any:
        files, form = [("files", (name, text.encode(), ""))], {"model": "meshes", "normalize": "false"}
        return CLIENT.post(f"{server.url}/embed", files=files, data=form).json()

    np.testing.assert_allclose(np.array(send("cube.gltf", gltf())), expected[:1], atol=1e-6)
    assert (
        "'scene.bin' cannot be read: there is no such file; export it as one GLB file"
        in send("cube.gltf", gltf("scene.bin"))["error"]
    )
    assert "or give a mesh file one of the extensions .gltf, .glb, .obj" in send("cube.fbx", gltf())["error"]


def test_kserve_takes_meshes_in_base64(server: Running, expected: np.ndarray) -> None:
    tensor = {"name": "mesh", "datatype": "BYTES", "shape": [1], "parameters": {"format": ".off"}}
    body = {"inputs": [tensor | {"data": [base64.b64encode(off().encode()).decode()]}]}
    (output,) = server.post("/v2/models/meshes/infer", body).json()["outputs"]
    assert np.array_equal(np.array(output["data"], np.float32), expected[1])


def test_wrong_meshes_and_models_are_refused(server: Running) -> None:
    broken = {"mesh": data_url(b"v 0 0\nf 1 2 3\n", "model/obj")}
    for model, item in (("meshes", broken), ("meshes", "a"), ("toy", {"points": CORNERS.tolist()})):
        response = server.post("/v1/embeddings", {"model": model, "input": [item]})
        assert response.status_code == 400
        assert "input[0]" in response.json()["error"]["message"]


def test_the_memory_of_a_scene_is_reserved_before_it_is_placed(meshes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(places: int) -> str:
        nodes = {"nodes": [{"mesh": 0}] * places, "scenes": [{"nodes": list(range(places))}]}
        return data_url(glb(**nodes), "model/gltf-binary")

    def read(data: bytes, suffix: str) -> Any:
        reads.append(len(data))
        return read_mesh_bytes(data, suffix)

    reads: list[int] = []
    monkeypatch.setattr(formats, "read_mesh_bytes", read)
    models = open_models({"meshes": meshes}, ServerSettings())
    with serving(models, room=1 << 23, max_body_bytes=1 << 20) as small:
        assert small.post("/v1/embeddings", {"input": [{"mesh": scene(100)}]}).status_code == 200
        assert len(reads) == 2, "again, after it asked for more memory"
        refused = small.post("/v1/embeddings", {"input": [{"mesh": scene(1000)}]})
        assert refused.status_code == 413
        assert "an item needs up to" in refused.json()["error"]["message"]
        assert len(reads) == 3
        small.wait_until_empty()


def test_the_memory_of_points_is_reserved(meshes: Path) -> None:
    (model,) = open_models({"meshes": meshes}, ServerSettings())
    prepared = Preparation(1, room_bytes=100_000)
    call = EmbedCall(model=model, items=[ServerItem(kind="mesh", content=np.zeros((1000, 3)))])
    with pytest.raises(RequestError) as refused:
        asyncio.run(prepared.prepare(call))
    assert refused.value.status == 413
    prepared.close()


def test_a_server_places_fewer_triangles(monkeypatch: pytest.MonkeyPatch) -> None:
    before = placement.MAX_PLACED_TRIANGLES
    monkeypatch.setattr(placement, "MAX_PLACED_TRIANGLES", before)  # and restored at the end
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    prepare_process(ServerSettings())
    assert before > placement.MAX_PLACED_TRIANGLES
