"""Meshes and point clouds over HTTP, from the file of a client to its vector."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime.server.run import open_models
from runtime.server.settings import ServerSettings
from tests.runtime.preprocess.cube import CORNERS, obj, off
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
