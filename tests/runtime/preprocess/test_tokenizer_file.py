"""Test that the tokenizer of a stranger can neither hang, nor crash, nor fill the memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from runtime.artifact.manifest import TextPreprocessing
from runtime.errors import InferenceError, IntegrityError
from runtime.preprocess import tokenizer_file
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.text import TextPreprocessor, Tokens
from runtime.preprocess.tokenizer_file import load_tokenizer
from tests.runtime.toy_artifact import WORDS


def _tokenizer() -> Tokenizer:
    return Tokenizer(models.WordLevel({"a": 0, WORDS[1]: 1}, unk_token=WORDS[1]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(IntegrityError, match="not a regular file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    _tokenizer().save(str(path))
    load_tokenizer(path)
    monkeypatch.setattr(tokenizer_file, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(IntegrityError, match="more than 10"):
        load_tokenizer(path)


def test_a_pattern_without_an_end_costs_its_items(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = _tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("^(a+)+$"), "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    preprocessor = TextPreprocessor(TextPreprocessing(max_length=8, pad_token_id=0), tmp_path)
    good, bad = preprocessor.prepare_all(["a", "a" * 40 + "b"])
    assert isinstance(good, Tokens)
    assert isinstance(bad, UnusableItemError)
    assert "retry-limit" in str(bad)


def test_a_tokenizer_without_threads_blames_no_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise type("PanicException", (BaseException,), {})("The global thread pool has not been initialized.")

    _tokenizer().save(str(tmp_path / "tokenizer.json"))
    preprocessor = TextPreprocessor(TextPreprocessing(max_length=8, pad_token_id=0), tmp_path)
    monkeypatch.setattr(preprocessor, "_tokenizer", SimpleNamespace(encode_batch_fast=fail))
    for prompt in (None, "a"):
        with pytest.raises(InferenceError, match="set TOKENIZERS_PARALLELISM=false"):
            preprocessor.prepare_all(["a", "b"], prompt)


@pytest.mark.parametrize(
    "steps",
    [
        [normalizers.Replace("a", "a" * 10)] * 8,
        [normalizers.Sequence([normalizers.Replace(Regex("."), "a" * 20)]), normalizers.Replace("a", "a" * 20)],
        [normalizers.Prepend("a" * 1000)],
    ],
)
def test_a_normalizer_that_inflates_a_text_is_refused(tmp_path: Path, steps: Sequence[normalizers.Normalizer]) -> None:
    tokenizer = _tokenizer()
    tokenizer.normalizer = normalizers.Sequence([*steps])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(IntegrityError, match="more than 256 times as long"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_the_replacements_of_the_field_are_taken(tmp_path: Path) -> None:
    tokenizer = _tokenizer()
    steps = [
        normalizers.Replace("``", '"'),
        normalizers.Prepend("▁"),
        normalizers.Replace(" ", "▁"),
        normalizers.NFKC(),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    load_tokenizer(tmp_path / "tokenizer.json")
