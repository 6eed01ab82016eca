"""Test the Embedder against the unmodified model, and its arguments and errors."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

import runtime
from exporters.catalogue.options import ExportOptions
from exporters.families.cnn.tower import Cnn, CnnTower
from runtime.artifact.manifest import Pooling
from runtime.preprocess.image import ImagePreprocessor
from runtime.session.session import Session
from tests.runtime.toy_artifact import write_artifact


@pytest.fixture(scope="module")
def model(exported: Path) -> runtime.Embedder:
    return runtime.load(exported, provider="cpu", threads=1)


def test_vectors_are_those_of_the_unmodified_model(
    model: runtime.Embedder, tiny_cnn: Cnn, photo_paths: list[Path]
) -> None:
    reference = CnnTower(tiny_cnn, ExportOptions(), output_dim=12).reference()
    vectors = model.embed(photo_paths)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(photo_paths), 12)
    np.testing.assert_allclose(vectors, reference, rtol=1e-5, atol=1e-6)


def test_gem_and_unit_length_from_normalised_pixels(
    exported_float32: Path, tiny_cnn: Cnn, photo_paths: list[Path]
) -> None:
    options = ExportOptions(input="float32", normalize=True, pooling=Pooling(method="gem", p=2.5, eps=1e-5))
    reference = CnnTower(tiny_cnn, options, output_dim=12).reference()
    vectors = runtime.load(exported_float32).embed(photo_paths)
    np.testing.assert_allclose(vectors, reference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 100])
def test_batch_size_changes_no_vector_and_no_order(
    model: runtime.Embedder, photo_paths: list[Path], batch_size: int
) -> None:
    alone = np.concatenate([model.embed([path]) for path in photo_paths])
    np.testing.assert_allclose(model.embed(photo_paths, batch_size=batch_size), alone, rtol=1e-5, atol=1e-6)


def test_items_of_every_kind_can_be_mixed(model: runtime.Embedder, photo_paths: list[Path]) -> None:
    path = photo_paths[2]
    image = Image.open(path)
    items: list[Any] = [str(path), path, path.read_bytes(), image, np.asarray(image)]
    vectors = model.embed(items, batch_size=2)
    assert np.ptp(vectors, axis=0).max() == 0


def test_an_array_of_images_is_a_sequence_of_items(model: runtime.Embedder) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(model.embed(images), model.embed(list(images)))


def test_items_may_be_a_generator(model: runtime.Embedder, photo_paths: list[Path]) -> None:
    np.testing.assert_array_equal(model.embed(path for path in photo_paths), model.embed(photo_paths))


def test_no_items_give_no_rows(model: runtime.Embedder) -> None:
    assert model.embed([]).shape == (0, 12)
    vectors, kept, failures, _ = model.embed([], on_error="skip")
    assert (vectors.shape, kept.shape, failures) == ((0, 12), (0,), [])


def test_a_bad_item_is_named_by_index_and_path(
    model: runtime.Embedder, photo_paths: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(photo_paths[0].read_bytes()[:1000])
    with pytest.raises(runtime.ItemError, match=r"item 1 \(.*bad\.jpg\): ") as caught:
        model.embed([photo_paths[0], bad])
    assert (caught.value.index, caught.value.item) == (1, str(bad))


def test_skip_reports_the_missing_rows(model: runtime.Embedder, photo_paths: list[Path], tmp_path: Path) -> None:
    items: list[Any] = [tmp_path / "none.jpg", photo_paths[0], b"", b"x", photo_paths[1], photo_paths[2], None]
    vectors, kept, failures, _ = model.embed(items, batch_size=2, on_error="skip")
    assert kept.tolist() == [1, 4, 5]
    assert [failure.index for failure in failures] == [0, 2, 3, 6]
    np.testing.assert_allclose(vectors, model.embed(photo_paths[:3]), rtol=1e-5, atol=1e-6)


def test_all_items_skipped(model: runtime.Embedder) -> None:
    vectors, kept, failures, _ = model.embed([b"", b""], on_error="skip")
    assert (vectors.shape, len(kept), len(failures)) == ((0, 12), 0, 2)


@pytest.mark.parametrize("single", ["a.jpg", Path("a.jpg"), b"", np.zeros((4, 4, 3), np.uint8), 3])
def test_one_item_instead_of_several_is_refused(model: runtime.Embedder, single: Any) -> None:
    with pytest.raises(runtime.UsageError, match="give several items, not one"):
        model.embed(single)


def test_an_asynchronous_iterator_is_refused(model: runtime.Embedder) -> None:
    async def photos() -> AsyncIterator[str]:
        yield "a.jpg"

    with pytest.raises(runtime.UsageError, match=r"not an asynchronous iterator: \[item async"):
        model.embed(photos())  # type: ignore[call-overload]


def test_arguments_are_checked(model: runtime.Embedder) -> None:
    for wrong in (0, True, 1.5):
        with pytest.raises(runtime.UsageError, match=f"batch_size is {wrong}"):
            model.embed([], batch_size=wrong)  # type: ignore[arg-type]
    options = runtime.EmbedOptions(batch_size=np.int64(8), truncate_dim=np.int64(2))  # type: ignore[arg-type]
    assert json.dumps([options.batch_size, options.truncate_dim]) == "[8, 2]", "as the origin of vectors holds them"
    with pytest.raises(runtime.UsageError, match=r"batch_size is 1\d+, it must be a whole number from 1 to"):
        model.embed([], batch_size=10**20)
    with pytest.raises(runtime.UsageError, match="on_error"):
        model.embed([], on_error="ignore")  # type: ignore[call-overload]


def test_keywords_are_the_fields_of_the_options() -> None:
    """The public signatures spell the keywords of ``EmbedOptions`` out, with the same defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(runtime.EmbedOptions)}
    for method, others in (
        (runtime.Embedder.embed, {"progress", "dtype", "ranges"}),
        (runtime.Embedder.embed_stream, {"on_progress"}),
    ):
        keywords = list(inspect.signature(method).parameters.values())[2:]
        assert {each.name: each.default for each in keywords if each.name not in others} == fields
        assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in keywords)


def test_the_ways_to_embed_one_kind_of_item_take_the_same_keywords(tmp_path: Path) -> None:
    model = runtime.load(write_artifact(tmp_path / "clip", image=True))
    options: Any = {"truncate_dim": 2, "normalize": True, "dtype": "float16"}
    pixels = np.full((4, 4, 3), 7, np.uint8)
    texts, images = model.embed_text(["a"], **options), model.embed_image([pixels], **options)
    np.testing.assert_array_equal(texts, model.embed(["a"], tower="text", **options))
    np.testing.assert_array_equal(images, model.embed([pixels], tower="image", **options))
    for vectors in (texts, images):
        assert (vectors.shape, vectors.dtype) == ((1, 2), np.float16)


def test_vectors_that_are_not_finite_are_not_returned(
    exported: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.load(exported)
    monkeypatch.setattr(Session, "run", lambda self, feeds, stop, **options: np.full((1, 12), np.nan, np.float32))
    with pytest.raises(runtime.NonFiniteError, match="runtime verify"):
        model.embed(photo_paths[:1])


def test_a_call_does_not_look_for_packages_again(
    exported: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.load(exported)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: pytest.fail("this takes milliseconds"))
    assert len(model.embed(photo_paths[:1])) == 1


def test_a_run_that_fails_says_what_to_do(
    exported: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.load(exported)
    monkeypatch.setattr(ImagePreprocessor, "prepare", lambda self, item: np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(runtime.InferenceError, match=r"batch of 2 with cpu .*smaller batch_size"):
        model.embed(photo_paths[:2])


def test_item_errors_can_be_pickled() -> None:
    error = copy.copy(runtime.ItemError(3, "a.jpg", "there is no such file"))  # copy uses the protocol of pickle
    assert (error.index, error.item, error.reason) == (3, "a.jpg", "there is no such file")
    assert str(error) == "item 3 (a.jpg): there is no such file"
    assert str(type(error)(*error.args)) == str(error), "Celery sends the class and the arguments"


def test_progress_goes_to_standard_error(
    model: runtime.Embedder, photo_paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model.embed(photo_paths, progress=True, batch_size=4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "6/6" in err


def test_names_of_sentence_transformers_mean_the_same(exported_text: Path) -> None:
    with runtime.load(exported_text) as model:
        vectors = model.encode(["a text", "b"], normalize_embeddings=True, batch_size=1, show_progress_bar=False)
        np.testing.assert_array_equal(vectors, model.embed(["a text", "b"], normalize=True, batch_size=1))
        single = model.encode("a text")
        assert single.shape == (model.output_dim,)
        assert model.max_seq_length == 64
        similarities = model.similarity(single, vectors)
        assert similarities.shape == (1, 2)
        np.testing.assert_allclose(similarities[0, 0], 1, atol=1e-6)
        passed: Any = {"output_value": "sentence_embedding", "convert_to_numpy": True, "device": "cpu"}
        np.testing.assert_array_equal(model.encode("a text", show_progress_bar=None, **passed), single)
        np.testing.assert_array_equal(model.encode("a text", device="cpu:0"), single)
        codes = model.encode(["a text", "b"], precision="int8")
        np.testing.assert_array_equal(codes, model.embed(["a text", "b"], dtype="int8"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"convert_to_tensor": True}, "numpy arrays"),
        ({"convert_to_numpy": False}, "numpy arrays"),
        ({"output_value": "token_embeddings"}, "output_value is 'token_embeddings'"),
        ({"device": "cuda"}, "runs with cpu, not on 'cuda'"),
        ({"precision": "ubinary"}, "ubinary"),
    ],
)
def test_what_encode_cannot_give_is_refused(wrong: Any, message: str, exported_text: Path) -> None:
    with runtime.load(exported_text) as model, pytest.raises(runtime.UsageError, match=message):
        model.encode(["a"], **wrong)


def test_positional_arguments_are_those_of_sentence_transformers(exported_text: Path) -> None:
    theirs = inspect.signature(SentenceTransformer.encode).parameters
    ours = inspect.signature(runtime.Embedder.encode).parameters
    positional = [name for name, each in ours.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional[2:] == list(theirs)[2:6], "the first is called sentences or inputs, by version"
    with runtime.load(exported_text) as model:
        np.testing.assert_array_equal(model.encode(["b"], None, "a", 1, False), model.encode(["b"], prompt="a"))


def test_tokens_are_those_of_the_tokenizer_without_a_prompt(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy", prompts={"query": "query: "}, default_prompt="query")
    with runtime.load(folder) as model:
        tokens = model.tokenize(["a b", "c"])
        assert tokens["input_ids"].tolist() == [[2, 4, 5, 3], [2, 6, 3, 0]]
        assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
        assert {array.dtype for array in tokens.values()} == {np.dtype(np.int64)}
        with pytest.raises(runtime.ItemError, match="a int is not a text"):
            model.tokenize(["a", 3])  # type: ignore[list-item]
        with pytest.raises(runtime.UsageError, match="give several items, not one str"):
            model.tokenize("a b")
        with pytest.raises(runtime.UsageError, match="tokenize takes at least one text"):
            model.tokenize([])


@pytest.mark.parametrize("collect", [np.array, pd.Series, iter, tuple], ids=["array", "Series", "iterator", "tuple"])
def test_tokenize_takes_the_collections_of_embed(collect: Any, tmp_path: Path) -> None:
    with runtime.load(write_artifact(tmp_path / "toy")) as model:
        assert model.tokenize(collect(["a b", "c"]))["input_ids"].tolist() == [[2, 4, 5, 3], [2, 6, 3, 0]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.ones((2, 5)), "vectors of 12 and of 5 dimensions cannot be compared"),
        ([[1.0], [1.0, 2.0]], "vectors must be an array of real numbers"),
        (["text"], "vectors must be an array of real numbers"),
        (np.ones((2, 3, 12)), r"vectors must be \[rows, dim\], not \[2, 3, 12\]"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(model: runtime.Embedder, other: Any, message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        model.similarity(np.ones((3, 12)), other)


def test_a_path_of_bytes_is_refused(exported: Path) -> None:
    with pytest.raises(runtime.UsageError, match=r"the path of an artifact is b'.*it must be a string or a pathlib"):
        runtime.load(str(exported).encode())  # type: ignore[arg-type]


def test_an_image_model_has_no_limit_of_tokens(model: runtime.Embedder) -> None:
    with pytest.raises(runtime.UsageError, match="no text tower"):
        _ = model.max_seq_length
