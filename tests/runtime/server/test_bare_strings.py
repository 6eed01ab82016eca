"""A model of texts and images must not embed the name of an image as a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.server.items import read_item
from tests.runtime.server.conftest import CLIENT, Running, serving_texts
from tests.runtime.server.test_openai_api import data_url, png

NAMES = ("photo.jpg", " folder/A.PNG\n", "https://example.com/a", "HTTP://a", "DATA:,a", data_url(png(7)))
WORDS = ("a cat", "see https://example.com", "https://example.com is down", "data: five rows", "data:science", "a.txt")


def requests(item: object) -> dict[str, dict[str, Any]]:
    return {
        "/v1/embeddings": {"input": ["a", item]},
        "/embed": {"inputs": ["a", item]},
        "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["a", item]}},
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_string_that_may_mean_an_image_is_refused(server: Running, model: runtime.Embedder, name: str) -> None:
    for path, body in requests(name).items():
        refused = server.post(path, body)
        assert refused.status_code == 400
        assert "[1] looks like an image, and a string is a text; send {" in refused.text
        assert "if it is meant literally" in refused.text
    literal = server.post("/embed", {"inputs": {"text": name}, "normalize": False, "truncate": True})
    assert np.array_equal(np.float32(literal.json()), model.embed_text([name]))


@pytest.mark.parametrize("text", WORDS)
def test_other_strings_are_texts(text: str) -> None:
    assert not read_item(text, "input").may_mean_image


def test_files_of_the_server_are_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.avif").touch()
    assert not read_item(str(tmp_path / "a.avif"), "input").may_mean_image


def test_an_upload_beside_a_string_does_not_make_it_a_text(server: Running) -> None:
    files = [("file", ("a.png", png(50), "image/png"))]
    refused = CLIENT.post(f"{server.url}/embed", files=files, data={"inputs": "photo.jpg"})
    assert refused.status_code == 400
    assert "meant literally; an object needs a JSON body" in refused.text


def test_the_input_of_texts_is_literal(server: Running, model: runtime.Embedder) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["photo.jpg"]}
    answer = server.post("/v2/models/toy/infer", {"inputs": [tensor]}).json()
    assert np.array_equal(np.float32(answer["outputs"][0]["data"]), model.embed_text(["photo.jpg"])[0])


def test_a_model_of_texts_alone_takes_every_string(tmp_path: Path) -> None:
    with serving_texts(tmp_path) as server:
        for path, body in requests("photo.jpg").items():
            assert server.post(path, body).status_code == 200
