"""A very long text is cut before it is tokenized, and its ids stay the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from runtime.artifact.manifest import TextPreprocessing
from runtime.preprocess.text import TextPreprocessor

LIMIT = 16
ALPHABET = [
    "a",
    "Bc",
    "é",
    "e\u0301",
    "中",
    "7",
    "_",
    ".",
    "'s",
    " ",
    "  ",
    "\n",
    "\t",
    "\u3000",
    "\u0301",
    "[M]",
    "🙂",
]
WORDS = ["mountainous", "electrical", "philosophy", "wavelength"]  # a token each, and several if they are cut
SPLITTERS = {
    "bert": (normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
    "bytes": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "bytes with prefix": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "words": (normalizers.Lowercase(), pre_tokenizers.Whitespace()),
    "spaces": (None, pre_tokenizers.WhitespaceSplit()),
}


def write(folder: Path, normalizer: Any, splitter: Any, added: str = "[M]") -> TextPreprocessor:
    tokenizer = Tokenizer(models.BPE(unk_token="[U]"))  # noqa: S106
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["[U]", "[C]"], show_progress=False)
    tokenizer.train_from_iterator(["".join(ALPHABET) * 3, " ".join(WORDS * 3)], trainer)
    tokenizer.add_special_tokens([added])
    tokenizer.post_processor = processors.TemplateProcessing(single="[C] $A [C]", special_tokens=[("[C]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return TextPreprocessor(TextPreprocessing(max_length=LIMIT, pad_token_id=0), folder)


@pytest.mark.parametrize("name", SPLITTERS)
def test_the_ids_of_a_cut_text_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    cutting = write(tmp_path, *SPLITTERS[name])
    whole = write(tmp_path, *SPLITTERS[name])
    assert cutting._cuts_texts
    whole._cuts_texts = False
    rng = random.Random(0)  # noqa: S311
    texts = ["".join(rng.choices(ALPHABET, k=1500)) for _ in range(50)]
    texts += [" " * 5000 + "a b", "a " + " " * 5000 + "b " * 9, "a" * 5000 + " b", "a" * 700 + " b" * 900]
    texts += [f"a{'':15}" * 200, *(" ".join(rng.choices(WORDS, k=100)) for _ in range(50))]
    assert cutting.prepare_all(texts) == whole.prepare_all(texts)


def test_little_of_a_long_text_is_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessor = write(tmp_path, *SPLITTERS["bert"])
    lengths: list[int] = []
    encode = preprocessor._encode_cleaned

    def record(texts: Sequence[str]) -> list[Encoding]:
        lengths.extend(map(len, texts))
        return encode(texts)

    monkeypatch.setattr(preprocessor, "_encode_cleaned", record)
    preprocessor.prepare_all(["a bc " * 200, f"a{'':15}" * 200, " " * 1000 + "a"])
    assert lengths == [129, 129, 1001, 657]  # the second head of the second text is five times as long


def test_a_tokenizer_that_reads_across_spaces_is_given_the_whole_text(tmp_path: Path) -> None:
    assert not write(tmp_path, None, pre_tokenizers.Metaspace())._cuts_texts
    assert not write(tmp_path, normalizers.Replace("a b", "c"), pre_tokenizers.Whitespace())._cuts_texts
    assert not write(tmp_path, None, pre_tokenizers.Whitespace(), added="a b")._cuts_texts


def test_a_lone_surrogate_behind_the_cut_is_still_refused(tmp_path: Path) -> None:
    preprocessor = write(tmp_path, *SPLITTERS["bert"])
    (error,) = preprocessor.prepare_all(["a " * 5000 + "\ud800"])
    assert "lone surrogate" in str(error)
