from __future__ import annotations

from typing import Any

import pytest

import runtime
from tests.runtime.server.conftest import Running

CALLS: dict[str, Any] = {
    "/v1/embeddings": {"input": "a"},
    "/embed": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/v2/models/toy/infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
}


@pytest.mark.parametrize("path", CALLS)
def test_a_response_names_the_space_of_its_vectors(path: str, server: Running, model: runtime.Embedder) -> None:
    assert model.space
    assert server.post(path, CALLS[path]).headers["x-vector-space"] == model.space


def test_the_descriptions_of_models_name_their_spaces(server: Running, model: runtime.Embedder) -> None:
    assert server.get("/info").json()["models"]["toy"]["vector_space"] == model.space
    assert {each["vector_space"] for each in server.get("/v1/models").json()["data"]} == {model.space}
    assert "x-vector-space" not in server.get("/info").headers
