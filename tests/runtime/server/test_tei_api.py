from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient

import runtime
from runtime.server.served_model import ServedModel
from tests.paths import ROOT
from tests.runtime.server.conftest import CLIENT, Running, serving, serving_texts
from tests.runtime.server.test_openai_api import data_url, png


def test_the_client_of_hugging_face_gets_the_vectors_of_embed(server: Running, model: runtime.Embedder) -> None:
    client = InferenceClient(model=server.url)
    assert np.array_equal(client.feature_extraction(["a", "b c"], normalize=False), model.embed(["a", "b c"]))
    unit = client.feature_extraction("b c", prompt_name="query", truncate=True, truncation_direction="right")
    assert np.allclose(unit, model.embed(["b c"], prompt_name="query", normalize=True), atol=1e-7)


def test_embed_normalizes_and_cuts_on_request(server: Running, model: runtime.Embedder) -> None:
    long = "a b c d a b c d"
    assert server.post("/embed", {"inputs": long}).status_code == 400
    cut = server.post("/embed", {"inputs": [long], "truncate": True, "normalize": False})
    assert cut.headers["x-truncated"] == "1"
    assert np.array_equal(np.float32(cut.json()), model.embed([long]))
    short = server.post("/embed", {"inputs": "a", "dimensions": 2, "model": "toy:query"}).json()
    expected = model.embed(["a"], prompt_name="query", truncate_dim=2, normalize=True)
    assert np.allclose(short, expected, atol=1e-7)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": None},
        {"inputs": ["a"], "truncate": 1},
        {"inputs": ["a"], "truncation_direction": "Left"},
        {"inputs": ["a"], "truncation_direction": "up"},
        {"inputs": ["a"], "prompt_name": "other"},
        {"inputs": ["a"], "normalize": "yes"},
    ],
)
def test_wrong_requests_are_refused_in_teis_form(server: Running, body: dict[str, Any]) -> None:
    response = server.post("/embed", body)
    assert response.status_code == 400
    assert response.json()["error_type"] == "Validation"
    assert response.json()["error"]


def test_an_item_of_another_kind_names_the_way_out(tmp_path: Path) -> None:
    with serving_texts(tmp_path) as server:
        response = server.post("/embed", {"inputs": [{"image": data_url(png(0))}]})
    assert response.status_code == 400
    assert response.json()["error"] == "inputs[0] is an image, and texts embeds text; name a model that embeds it"


def test_an_explicit_false_is_honoured(toy_models: list[ServedModel], model: runtime.Embedder) -> None:
    long = "a b c d a b c d"
    with serving(toy_models, truncate="count") as server:
        assert server.post("/embed", {"inputs": long}).status_code == 200
        assert server.post("/embed", {"inputs": long, "truncate": False}).status_code == 400
        short = server.post("/embed", {"inputs": "a", "dimensions": 2, "normalize": False}).json()
    assert np.allclose(short, model.embed(["a"], truncate_dim=2), atol=1e-7)


def test_tokenize_adds_special_tokens_if_the_model_does(tmp_path: Path) -> None:
    with serving_texts(tmp_path, add_special_tokens=False) as server:
        bare, special = (
            [token["id"] for token in server.post("/tokenize", {"inputs": "a b", **options}).json()[0]]
            for options in ({}, {"add_special_tokens": True})
        )
        usage = server.post("/v1/embeddings", {"input": "a b"}).json()["usage"]
    assert (bare, special, usage["prompt_tokens"]) == ([4, 5], [2, 4, 5, 3], 2)


def test_a_form_takes_images_and_texts(server: Running, model: runtime.Embedder) -> None:
    files = [("file", ("a.png", png(50), "image/png")), ("file", ("b", png(70), "application/octet-stream"))]
    response = CLIENT.post(f"{server.url}/embed", files=files, data={"normalize": "false", "inputs": ["a", "b"]})
    expected = {tuple(vector) for vector in model.embed([png(50), png(70), "a", "b"]).tolist()}
    assert {tuple(vector) for vector in response.json()} == expected
    assert CLIENT.post(f"{server.url}/embed", files=[("file", ("a.png", b"no", "image/png"))]).status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for content in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n", b"\0" * 99):
        assert CLIENT.post(f"{server.url}/embed", content=content, headers=headers).status_code == 400
    headers = {"content-type": "multipart/form-data"}
    assert CLIENT.post(f"{server.url}/embed", content=b"a", headers=headers).status_code == 400


@pytest.mark.parametrize(("images", "texts", "status"), [(0, 4, 200), (99, 0, 413), (0, 99, 413), (2, 3, 413)])
def test_the_items_of_a_form_are_counted(toy_models: list[ServedModel], images: int, texts: int, status: int) -> None:
    parts: list[Any] = [("file", ("a.png", png(50), "image/png"))] * images + [("inputs", (None, "a"))] * texts
    with serving(toy_models, max_items=4) as server:
        response = CLIENT.post(f"{server.url}/embed", files=[("model", (None, "toy")), *parts])
    assert response.status_code == status
    assert status == 200 or response.json()["error"] == "inputs has 5 items, and the server takes 4; send fewer"


@pytest.mark.parametrize(
    ("charset", "fields", "message"),
    [
        ("", [("inputs", b"\xc6")], "can't decode byte 0xc6"),
        ("; charset=utf8mb4", [("inputs", "Ж".encode())], "charset must be UTF-8"),
        ("", [("inputs", b"a"), ("prompt_name", b"nope"), ("prompt_name", b"query")], "there more than once"),
        ("", [("inputs", b"a"), ("dimensions", b"9" * 5000)], "dimensions must be a whole number"),
    ],
    ids=["bytes", "charset", "twice", "digits"],
)
def test_a_form_that_would_be_misread_is_refused(
    server: Running, charset: str, fields: list[tuple[str, bytes]], message: str
) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    content = b"".join(part % (name.encode(), value) for name, value in fields) + b"--x--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=x{charset}"}
    refused = CLIENT.post(f"{server.url}/embed", content=content, headers=headers)
    assert refused.status_code == 400
    assert message in refused.json()["error"]


def test_similarity_compares_one_item_with_others(server: Running, model: runtime.Embedder) -> None:
    inputs = {"source_sentence": "a", "sentences": ["a", "b c", {"image": data_url(png(3))}]}
    answer = server.post("/similarity", {"inputs": inputs}).json()
    vectors = model.embed(["a", "b c", png(3)])
    assert np.allclose(answer, model.similarity(model.embed(["a"]), vectors)[0])
    wrong = {"source_sentence": ["a", "b"], "sentences": ["a"]}
    assert server.post("/similarity", {"inputs": wrong}).status_code == 400
    assert server.post("/similarity", {"inputs": "a"}).status_code == 400


def test_similarity_names_the_item_at_fault(toy_models: list[ServedModel]) -> None:
    long = "a b c d a b c d"
    with serving(toy_models, max_items=2) as server:
        for inputs, place in (
            ({"source_sentence": "a", "sentences": ["b", long]}, "sentences[1]"),
            ({"source_sentence": long, "sentences": ["b", "c"]}, "source_sentence"),
            ({"source_sentence": {"points": [[0, 0, 0], [1, 1, 1]]}, "sentences": "b"}, "source_sentence"),
        ):
            refused = server.post("/similarity", {"inputs": inputs})
            assert refused.status_code == 400
            assert refused.json()["error"].startswith(f"{place} ")
        assert server.post("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}).is_success


def test_tokens_of_a_long_text_are_not_cut(server: Running, model: runtime.Embedder) -> None:
    texts = ["a b", "a b c d a b c d", "Ж"]
    short, long, unknown = server.post("/tokenize", {"inputs": texts}).json()
    assert short[0] == {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert short[2] == {"id": 5, "text": "b", "special": False, "start": 2, "stop": 3}
    assert unknown[1] == {"id": 1, "text": "Ж", "special": False, "start": 0, "stop": 1}
    assert len(long) == 10
    bare = server.post("/tokenize", {"inputs": "a b", "add_special_tokens": False, "prompt_name": "query"}).json()
    assert [token["id"] for token in bare[0]] == [8, 9, 4, 5]
    embedded = server.post("/v1/embeddings", {"input": [token["id"] for token in short]}).json()
    assert embedded["data"][0]["embedding"] == model.embed(["a b"])[0].tolist()
    assert server.post("/embed", {"inputs": [[token["id"] for token in bare[0]]]}).status_code == 400
    assert server.post("/tokenize", {"inputs": [1]}).status_code == 400


def test_info_health_and_metrics_describe_the_server(toy_models: list[ServedModel]) -> None:
    with serving(toy_models) as own:
        own.post("/embed", {"inputs": ["a", "b"]})
        own.post("/v1/embeddings", {})
        own.get("/strange/path")
        info = own.get("/info").json()
        assert info["model_id"] == "toy"
        assert info["max_input_length"] == 8
        assert info["models"]["toy"]["prompts"] == ["toy:query", "toy:passage"]
        assert own.get("/health").status_code == 200
        page = own.get("/metrics").text
    table = (ROOT / "docs/operating.md").read_text("utf-8").partition("| metric | meaning |")[2].partition("\n\n")[0]
    names = re.findall(r"^# TYPE (te_\w+) ", page, re.MULTILINE)
    assert sorted(re.findall(r"`(te_\w+)`", table)) == sorted(name for name in names if not name.endswith("_created"))
    values = dict(re.findall(r"^(te_\S+) (\S+)$", page, re.MULTILINE))
    assert values['te_request_count{path="/embed",status="200"}'] == "1.0"
    assert values['te_request_count{path="other",status="404"}'] == "1.0"
    assert values['te_request_failure{err="400"}'] == "1.0"
    assert values["te_embed_count"] == values["te_request_queue_duration_count"] == "2.0"
    assert values["te_request_duration_count"] == "1.0"
    assert "# TYPE te_request_failure counter\n" in page
    assert values["te_queue_size"] == values["te_queue_tokens"] == values["te_admitted_tokens"] == "0.0"
    assert values["te_batch_padding_share_sum"] == "0.0", "both texts have the same length"
    for name in ("tokenization", "inference", "serialization", "queue"):
        assert float(values[f"te_request_{name}_duration_sum"]) > 0
