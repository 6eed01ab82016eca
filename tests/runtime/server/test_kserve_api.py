from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.server.served_model import ServedModel
from tests.runtime.server.conftest import Running, serving
from tests.runtime.server.test_openai_api import png

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")


@pytest.fixture
def client(server: Running) -> Any:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def test_the_client_of_triton_sees_the_server_and_the_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("toy")
    assert [each["name"] for each in described["inputs"]] == ["text", "image"]
    assert described["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 4]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_vectors_equal_those_of_embed(client: Any, model: runtime.Embedder, binary: bool, shape: list[int]) -> None:
    texts = ["a", "b c", "é"]
    tensor = triton.InferInput("text", shape, "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], object).reshape(shape), binary_data=binary)
    outputs = [triton.InferRequestedOutput("embedding", binary_data=binary)]
    result = client.infer("toy:query", [tensor], outputs=outputs, request_id="7")
    assert np.array_equal(result.as_numpy("embedding"), model.embed(texts, prompt_name="query"))
    assert result.get_response()["id"] == "7"
    assert "parameters" not in result.get_response()


@pytest.mark.parametrize("version", ["", "1"])
def test_a_name_may_have_slashes(toy_models: list[ServedModel], version: str) -> None:
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"a"], object))
    with (
        serving([replace(toy_models[0], name="BAAI/toy")]) as server,
        closing(triton.InferenceServerClient(server.url.removeprefix("http://"))) as client,
    ):
        assert client.is_model_ready("BAAI/toy", version)
        assert client.get_model_metadata("BAAI/toy", version)["name"] == "BAAI/toy"
        answer = client.infer("BAAI/toy:query", [tensor], model_version=version).get_response()
        assert not client.is_model_ready("toy", version)
        assert 'path="/v2/models/{model}' in server.get("/metrics").text
    assert answer["model_name"] == "BAAI/toy:query"


@pytest.mark.parametrize("binary", [True, False])
def test_texts_that_were_cut_are_named(toy_models: list[ServedModel], binary: bool) -> None:
    tensor = triton.InferInput("text", [3], "BYTES")
    tensor.set_data_from_numpy(np.array([b"a", b"a b c d a b c d", b"b"], object))
    outputs = [triton.InferRequestedOutput("embedding", binary_data=binary)]
    with (
        serving(toy_models, truncate="count") as server,
        closing(triton.InferenceServerClient(server.url.removeprefix("http://"))) as client,
    ):
        answer = client.infer("toy", [tensor], outputs=outputs).get_response()
    assert answer["parameters"] == {"truncated": "1"}


def test_images_and_parameters_are_taken(client: Any, model: runtime.Embedder) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([png(8)], object))
    result = client.infer("toy", [tensor], model_version="1", parameters={"dimensions": 2})
    expected = model.embed([png(8)], truncate_dim=2, normalize=True)
    assert np.allclose(result.as_numpy("embedding"), expected, atol=1e-7)


TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": "a"},
        {"inputs": [TENSOR | {"name": "input_ids"}]},
        {"inputs": [TENSOR | {"datatype": "INT64"}]},
        {"inputs": [TENSOR | {"shape": [2]}]},
        {"inputs": [TENSOR | {"data": [1]}]},
        {"inputs": [TENSOR | {"name": "image", "data": ["no base64"]}]},
        {"inputs": [TENSOR | {"parameters": {"binary_data_size": 9}}]},
        {"inputs": [TENSOR | {"parameters": {"binary_data_size": -9}}]},
        {"inputs": [TENSOR], "outputs": [{"name": "other"}]},
        {"inputs": [TENSOR], "outputs": [3]},
        {"inputs": [TENSOR], "parameters": []},
        {"inputs": [TENSOR], "id": 5},
    ],
    ids=str,
)
def test_wrong_requests_are_refused(server: Running, body: dict[str, Any]) -> None:
    response = server.post("/v2/models/toy/infer", body)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    ("binary", "message"),
    [(b"\x05\0\0\0text", "another size than it announces"), (b"\x05\0\0\0texts more", "14 follow the JSON")],
    ids=["short", "long"],
)
def test_binary_tensors_of_another_size_are_refused(server: Running, binary: bytes, message: str) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(header))}
    response = server.post("/v2/models/toy/infer", None, content=header + binary, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "3", "9" * 5000], ids="{:.9}".format)
def test_a_wrong_length_of_the_header_is_refused(server: Running, length: str) -> None:
    headers = {"inference-header-content-length": length}
    assert server.post("/v2/models/toy/infer", {"inputs": [TENSOR]}, headers=headers).status_code == 400


def test_only_version_1_exists(server: Running) -> None:
    assert server.get("/v2/models/toy/versions/1/ready").status_code == 200
    assert server.get("/v2/models/toy/versions/2/ready").status_code == 404
