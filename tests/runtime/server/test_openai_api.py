from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

import runtime
from runtime.server.served_model import ServedModel
from tests.image_bytes import encode
from tests.runtime.server.conftest import Running, serving

TEXTS = [" ".join("abcd"[: 1 + index % 4]) for index in range(40)]


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def vectors_of(response: Any) -> Any:
    return np.array([each.embedding for each in response.data], dtype=np.float32)


def png(colour: int) -> bytes:
    return encode(Image.new("RGB", (4, 4), (colour, colour, colour)), "PNG")


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_equal_those_of_embed(client: openai.OpenAI, model: runtime.Embedder, encoding: Any) -> None:
    response = client.embeddings.create(model="toy", input=TEXTS, encoding_format=encoding, user="me")
    embeddings = [each.embedding for each in response.data]
    if encoding == "base64":
        embeddings = [np.frombuffer(base64.b64decode(str(each)), "<f4") for each in embeddings]  # type: ignore[misc]
    assert np.array_equal(np.array(embeddings, dtype=np.float32), model.embed(TEXTS))
    assert [each.index for each in response.data] == list(range(len(TEXTS)))
    assert response.model == "toy"
    assert response.usage.total_tokens == response.usage.prompt_tokens == sum(2 + len(text.split()) for text in TEXTS)


def test_every_response_is_the_vector_of_that_text_alone(server: Running, model: runtime.Embedder) -> None:
    expected = {text: model.embed([text])[0] for text in set(TEXTS)}

    def ask(text: str) -> bool:
        connection, body = http.client.HTTPConnection("127.0.0.1", server.port), json.dumps({"input": [text, "a b"]})
        right = []
        for _ in range(5):
            connection.request("POST", "/v1/embeddings", body)
            pair = [each["embedding"] for each in json.load(connection.getresponse())["data"]]
            right.append(np.array_equal(np.array(pair, np.float32), [expected[text], expected["a b"]]))
        connection.close()
        return all(right)

    with ThreadPoolExecutor(64) as executor:
        assert all(executor.map(ask, (TEXTS * 2)[:64]))


def test_dimensions_are_cut_and_renormalised(client: openai.OpenAI, model: runtime.Embedder) -> None:
    response = client.embeddings.create(model="toy", input=["a b"], dimensions=3)
    assert np.allclose(vectors_of(response), model.embed(["a b"], truncate_dim=3, normalize=True), atol=1e-7)


def test_token_ids_are_embedded_as_they_are(client: openai.OpenAI) -> None:
    one = vectors_of(client.embeddings.create(model="toy", input=[2, 4, 3]))
    many = vectors_of(client.embeddings.create(model="toy", input=[[2, 4, 3], [2, 5, 5, 3]]))
    assert one[:, :2].tolist() == [[9, 3]]
    assert many[:, :2].tolist() == [[9, 3], [15, 4]]


def test_an_alias_names_a_prompt(client: openai.OpenAI, model: runtime.Embedder) -> None:
    for prompt in ("query", "passage"):
        response = client.embeddings.create(model=f"toy:{prompt}", input="a b")
        assert np.array_equal(vectors_of(response), model.embed_text(["a b"], prompt_name=prompt))
        named = client.embeddings.create(model="toy", input="a b", extra_body={"prompt_name": prompt})
        assert np.array_equal(vectors_of(named), vectors_of(response))
    document = client.embeddings.create(model="toy:document", input="a b")
    assert np.array_equal(vectors_of(document), model.embed_document(["a b"]))


def test_models_are_listed_with_their_prompts(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["toy", "toy:query", "toy:passage"]
    assert client.models.retrieve("toy").id == "toy"


def test_images_and_texts_may_stand_side_by_side(server: Running, model: runtime.Embedder) -> None:
    items = ["a", {"image": data_url(png(9))}, {"text": "b"}, {"image": data_url(png(200))}]
    data = server.post("/v1/embeddings", {"input": items}).json()["data"]
    expected = model.embed(["a", png(9), "b", png(200)])
    assert np.array_equal(np.array([each["embedding"] for each in data], np.float32), expected)


def test_a_long_text_is_refused_or_reported(server: Running, toy_models: list[ServedModel]) -> None:
    body = {"input": ["a", "a b c d a b c d"]}
    refused = server.post("/v1/embeddings", body)
    assert refused.status_code == 400
    assert "input[1]" in refused.json()["error"]["message"]
    with serving(toy_models, truncate="count") as cutting:
        cut = cutting.post("/v1/embeddings", body)
    assert cut.json()["usage"]["truncated"] == [1]
    assert cut.headers["x-truncated"] == "1"
    assert "x-truncated" not in server.post("/v1/embeddings", {"input": "a"}).headers


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": "a", "model": "other"}, 404, "model"),
        ({"input": "a", "model": "toy:other"}, 404, "model"),
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": [[]]}, 400, "input[0]"),
        ({"input": 3}, 400, "input"),
        ({"input": ["a", None]}, 400, "input[1]"),
        ({"input": [1, True]}, 400, "input[0]"),
        ({"input": [2, 4000]}, 400, "input"),
        ({"input": [-1]}, 400, "input"),
        ({"input": [2**70]}, 400, "input[0]"),
        ({"input": [2] * 9}, 400, "input"),
        ({"input": {"image": "https://example.com/a.png"}}, 400, "input.image"),
        ({"input": {"image": "file:///etc/passwd"}}, 400, "input.image"),
        ({"input": {"image": "data:image/png;base64,!"}}, 400, "input.image"),
        ({"input": {"image": "data:image/png;base64,AAAA"}}, 400, "input"),
        ({"input": {"mesh": "data:text/plain,a"}}, 400, "input.mesh"),
        ({"input": {"points": [[0, 0, 0], [1, 1, 1]]}}, 400, "input"),
        ({"input": {"points": [[0, 0], [1]]}}, 400, "input.points"),
        ({"input": {"text": "a", "image": "data:,"}}, 400, "input"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"input": "a", "dimensions": 5}, 400, "dimensions"),
        ({"input": "a", "dimensions": True}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
        ({"input": "a", "prompt_name": "other"}, 400, "prompt_name"),
        ({"input": "a", "user": 1}, 400, "user"),
        ({"input": ["a"] * 2049}, 413, "input"),
    ],
    ids=str,
)
def test_wrong_requests_are_refused_in_openais_form(
    server: Running, body: dict[str, Any], status: int, param: str
) -> None:
    response = server.post("/v1/embeddings", body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_the_official_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="toy", input="a", dimensions=99)
