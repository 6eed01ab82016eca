"""Test the prompts of texts: which one applies, and that it stays with its own call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

import runtime
from runtime.inference.prompts import applied_prompt
from tests.runtime.toy_artifact import write_artifact, write_tokenizer

PROMPTS = {"query": "query : ", "passage": "passage : ", "empty": ""}
TEXTS = ["a", "a b", "b c d"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> runtime.Embedder:
    folder = tmp_path_factory.mktemp("prompts") / "toy"
    return runtime.load(write_artifact(folder, prompts=PROMPTS, default_prompt="passage"), provider="cpu", threads=1)


def test_a_prompt_is_put_before_each_text(model: runtime.Embedder) -> None:
    whole = model.embed([f"query : {text}" for text in TEXTS], prompt="")
    named = model.embed(TEXTS, prompt_name="query")
    np.testing.assert_array_equal(named[:, :3], whole[:, :3])
    np.testing.assert_array_equal(whole[:, 3] - named[:, 3], 3)  # [CLS], query and : are not pooled
    for vectors in (
        model.embed(TEXTS, prompt="query : "),
        model.embed_text(TEXTS, prompt_name="query"),
        model.embed_query(TEXTS),
        model.embed_document(TEXTS, prompt_name="query", batch_size=2),
        next(model.embed_stream(TEXTS, prompt_name="query")).vectors,
    ):
        np.testing.assert_array_equal(vectors, named)


def test_the_default_prompt_applies_unless_another_is_given(model: runtime.Embedder) -> None:
    default = model.embed(TEXTS)
    np.testing.assert_array_equal(default, model.embed(TEXTS, prompt_name="passage"))
    bare = model.embed(TEXTS, prompt="")
    assert bare[:, 1].tolist() == [3, 4, 5]
    np.testing.assert_array_equal(model.embed(TEXTS, prompt_name="empty"), bare)
    assert (default != bare).any()


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        ({"query": "query : ", "document": "passage : "}, None),
        ({"query": "query : ", "document": "passage : "}, "query"),
        ({"passage": "passage : "}, "passage"),
        ({"corpus": "a ", "passage": "b ", "other": "c "}, "other"),
    ],
)
def test_queries_and_documents_get_the_prompts_of_sentence_transformers(
    prompts: dict[str, str], default: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    made = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=4)],
        device="cpu",
        prompts=prompts,
        default_prompt_name=default,
    )
    made.save(str(tmp_path / "saved"), create_model_card=False)
    reference = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    applied: list[str | None] = []

    def note(self: object, inputs: list[str], *, prompt: str | None, **others: object) -> Any:
        applied.append(prompt)
        return np.zeros((len(inputs), 1))

    monkeypatch.setattr(SentenceTransformer, "_inference", note)
    folder = write_artifact(tmp_path / "toy", prompts=dict(reference.prompts), default_prompt=default)
    model = runtime.load(folder, provider="cpu")
    for ours, theirs in (
        (model.embed, reference.encode),
        (model.embed_query, reference.encode_query),
        (model.embed_document, reference.encode_document),
    ):
        theirs(["a"])
        np.testing.assert_array_equal(ours(["a"]), model.embed(["a"], prompt=applied.pop() or ""), err_msg=str(ours))


def test_without_a_prompt_of_its_own_a_query_or_document_has_none(tmp_path: Path) -> None:
    """So does an artifact of the catalogue, which has no prompts at all."""
    model = runtime.load(write_artifact(tmp_path / "toy", prompts={"x": "c "}, default_prompt="x"), provider="cpu")
    named = [model.embed(TEXTS, prompt_name=name) for name in ("query", "document")]
    for vectors in (model.embed_query(TEXTS), model.embed_document(TEXTS), *named):
        np.testing.assert_array_equal(vectors, model.embed(TEXTS, prompt=""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "Query"}, "no prompt called 'Query'; the artifact has 'query', 'passage', 'empty'"),
        ({"prompt_name": "query", "prompt": ""}, "exclude each other"),
        ({"prompt": 3}, "prompt is 3, it must be a string"),
        ({"prompt": "a " * 8}, "leaves no token for the text: the model takes 8 tokens"),
        ({"prompt": "a " * 6}, "leaves no token for the text"),
        ({"prompt": "\ud800"}, "the prompt .* cannot be tokenized"),
    ],
)
def test_a_wrong_prompt_is_wrong_usage(model: runtime.Embedder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        model.embed(TEXTS, **options)


def test_a_text_that_is_too_long_with_its_prompt_is_named(model: runtime.Embedder) -> None:
    texts = ["a", "a b c d d"]
    assert model.embed(texts, prompt="", truncate="error").shape == (2, 4)
    result = model.embed(texts, prompt_name="query", on_error="skip", truncate="error")
    (failure,) = result.failures
    assert failure.index == 1
    assert "more tokens than the model takes, its prompt included" in failure.reason
    assert model.embed(texts, prompt_name="query", on_error="skip").truncated.tolist() == [1]


def test_golden_items_are_embedded_with_the_default_prompt(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy", prompts=PROMPTS, default_prompt="passage")
    assert runtime.verify(folder, provider="cpu").towers["text"].agreement.max_abs_error == 0


def test_only_texts_have_prompts(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "clip", image=True, prompts=PROMPTS)
    pixels = np.full((4, 4, 3), 7, np.uint8)
    mixed = runtime.load(folder, provider="cpu")
    vectors = mixed.embed(["a", pixels], prompt_name="query")
    np.testing.assert_array_equal(vectors[:1], mixed.embed_text(["a"], prompt="query : "))
    assert vectors[1].tolist() == [7] * 4
    model = runtime.load(folder, provider="cpu", tower="image")
    for call in (partial(mixed.embed, [pixels], tower="image"), partial(model.embed, [pixels])):
        for prompt in ({"prompt_name": "query"}, {"prompt": "a "}):
            with pytest.raises(runtime.UsageError, match="prompts are for texts"):
                call(**prompt)
    with pytest.raises(runtime.UsageError, match="there is no text tower"):
        model.embed_query(["a"])


def test_threads_keep_their_own_prompts(model: runtime.Embedder) -> None:
    prompts = ["", "a ", "b c ", "query : "] * 8
    expected = {prompt: model.embed(TEXTS * 60, prompt=prompt) for prompt in prompts[:4]}
    with ThreadPoolExecutor(8) as executor:
        for prompt, vectors in zip(
            prompts, executor.map(lambda prompt: model.embed(TEXTS * 60, prompt=prompt), prompts), strict=True
        ):
            np.testing.assert_array_equal(vectors, expected[prompt])


@pytest.mark.process
def test_worker_processes_apply_prompts(model: runtime.Embedder, tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy", prompts=PROMPTS, default_prompt="passage")
    with runtime.load(folder, provider="cpu", workers=1) as workers:
        choices: list[dict[str, Any]] = [{}, {"prompt_name": "query"}, {"prompt": ""}]
        for options in choices:
            np.testing.assert_array_equal(workers.embed(TEXTS, **options), model.embed(TEXTS, **options))
        with pytest.raises(runtime.UsageError, match="leaves no token"):
            workers.embed(TEXTS, prompt="a " * 9)


def test_the_prompt_that_applies_is_known_before(model: runtime.Embedder) -> None:
    towers = model.loaded_towers()
    asked: list[dict[str, Any]] = [{}, {"prompt": ""}, {"prompt_name": "query"}, {"prompt_name": "document"}]
    found = [applied_prompt(runtime.EmbedOptions(**options), towers) for options in asked]
    assert found == ["passage : ", "", "query : ", "passage : "]
