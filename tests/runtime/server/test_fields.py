"""Fields of requests in every interface: each is honoured, or refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.conftest import PROMPTS, Running, serving_texts


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/embed", {"inputs": "a", "promt_name": "query"}, "promt_name"),
        ("/embed", {"inputs": "a", "prompt": "query: "}, "prompt"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "model": "toy"}, "model"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"x": 1}}, "x"),
        ("/tokenize", {"inputs": "a", "truncate": True}, "truncate"),
        ("/v1/embeddings", {"input": "a", "normalize": True}, "normalize"),
        ("/v1/embeddings", {"input": "a", "input_type": "query"}, "input_type"),
        ("/v2/models/toy/infer", {"inputs": [], "parameters": {"truncate": True}}, "truncate"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused(server: Running, path: str, body: dict[str, Any], field: str) -> None:
    response = server.post(path, body)
    assert response.status_code == 400
    assert f"the field '{field}' is not known here; known are " in response.text


def test_a_prompt_is_not_left_out_for_token_ids(server: Running) -> None:
    assert server.post("/embed", {"inputs": [[2, 4, 3]]}).status_code == 200
    for path, body in (
        ("/embed", {"inputs": [[2, 4, 3]], "prompt_name": "query"}),
        ("/v1/embeddings", {"input": [2, 4, 3], "model": "toy:query"}),
    ):
        refused = server.post(path, body)
        assert refused.status_code == 400
        assert "are token ids, and the prompt 'query : ' is put before texts only; send the text" in refused.text


PROMPT = {"prompt_name": "passage"}
TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a", "model": "toy:query"} | PROMPT),
        ("/embed", {"inputs": "a", "model": "toy:query"} | PROMPT),
        (
            "/similarity",
            {
                "inputs": {"source_sentence": "a", "sentences": ["b"]},
                "parameters": {"model": "toy:query"} | PROMPT,
            },
        ),
        ("/tokenize", {"inputs": "a", "model": "toy:query"} | PROMPT),
        ("/v2/models/toy:query/infer", {"inputs": [TENSOR], "parameters": PROMPT}),
    ],
)
def test_two_prompts_of_one_request_are_refused(server: Running, path: str, body: dict[str, Any]) -> None:
    refused = server.post(path, body)
    assert refused.status_code == 400
    assert "prompt_name is 'passage', and the model 'toy:query' names another prompt" in refused.text
    assert server.post(path, json.loads(json.dumps(body).replace("passage", "query"))).status_code == 200


def test_a_default_prompt_is_honoured_or_refused(tmp_path: Path) -> None:
    with serving_texts(tmp_path, prompts=PROMPTS, default_prompt="query") as server:
        (tokens,) = server.post("/tokenize", {"inputs": "a b"}).json()
        usage = server.post("/v1/embeddings", {"input": "a b"}).json()["usage"]
        refused = server.post("/embed", {"inputs": [[2, 4, 5, 3]]})
    assert [token["id"] for token in tokens] == [2, 8, 9, 4, 5, 3]
    assert tokens[3] == {"id": 4, "text": "a", "special": False, "start": 8, "stop": 9}
    assert usage["prompt_tokens"] == len(tokens)
    assert refused.status_code == 400
    assert "inputs[0] are token ids, and the prompt 'query : ' is put before texts only" in refused.json()["error"]
