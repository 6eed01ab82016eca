"""Test that token ids equal those of transformers' own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import runtime
from exporters.samples.texts import TEXTS
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer, build_stand_in_tokenizer
from runtime.artifact.manifest import TextPreprocessing
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.text import TextPreprocessor

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
