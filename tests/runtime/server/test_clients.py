"""Clients of frameworks against a server in a process of its own. ``make clients`` installs them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from tests.runtime.server.test_process import started

pytestmark = [pytest.mark.process, pytest.mark.tried, pytest.mark.filterwarnings("ignore")]  # their own warnings
TEXTS = ["a", "b c", "a b c d", "", "Ж"]


@pytest.fixture(scope="module")
def url(toy: Path) -> Iterator[str]:
    with started(str(toy)) as process:
        yield process.url


def client(module: str, name: str, **options: Any) -> Any:
    try:
        return getattr(import_module(module), name)(**options)
    except ModuleNotFoundError as exc:
        pytest.skip(f"needs {exc.name}; see `make clients`")


def assert_equal(vectors: Any, expected: Any) -> None:
    assert np.allclose(np.array(vectors, np.float32), expected, atol=1e-6)


@pytest.mark.parametrize("alias", ["toy", "toy:query"])
def test_langchains_openai(url: str, model: runtime.Embedder, alias: str) -> None:
    options = {"base_url": f"{url}/v1", "api_key": "none", "check_embedding_ctx_length": False}
    embeddings = client("langchain_openai", "OpenAIEmbeddings", model=alias, **options)
    expected = model.embed(TEXTS, prompt_name="query") if alias == "toy:query" else model.embed(TEXTS)
    assert_equal(embeddings.embed_documents(TEXTS), expected)
    assert_equal(embeddings.embed_query("b c"), expected[1])
    short = client("langchain_openai", "OpenAIEmbeddings", model=alias, dimensions=2, **options)
    assert np.shape(short.embed_query("a")) == (2,)


def test_langchains_hugging_face(url: str, model: runtime.Embedder) -> None:
    embeddings = client("langchain_huggingface", "HuggingFaceEndpointEmbeddings", model="toy")
    embeddings.client = client("huggingface_hub", "InferenceClient", model=url)  # newer releases refuse a URL as model
    assert_equal(embeddings.embed_documents(TEXTS), model.embed(TEXTS, normalize=True))
    assert_equal(embeddings.embed_query("b c"), model.embed(["b c"], normalize=True)[0])


def test_llama_indexs_openai(url: str, model: runtime.Embedder) -> None:
    options = {"api_base": f"{url}/v1", "api_key": "none", "embed_batch_size": 2}
    embeddings = client("llama_index.embeddings.openai_like", "OpenAILikeEmbedding", model_name="toy", **options)
    assert_equal(embeddings.get_text_embedding_batch(TEXTS[:3]), model.embed(TEXTS[:3]))
    assert_equal(embeddings.get_query_embedding("b c"), model.embed(["b c"])[0])
