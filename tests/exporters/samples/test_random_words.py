from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordLevel, WordPiece
from tokenizers.pre_tokenizers import Whitespace

from exporters.samples.random_words import random_texts

WORDS = ("cup", "Regen", "\u96e8")


def _tokenizer(path: Path, *tokens: str) -> Path:
    tokenizer = Tokenizer(WordPiece({token: index for index, token in enumerate(tokens)}))
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["[CLS]"])
    tokenizer.save(str(path))
    return path


def test_texts_hold_only_words_and_are_always_the_same(tmp_path: Path) -> None:
    path = _tokenizer(tmp_path / "tokenizer.json", "[UNK]", "[CLS]", *WORDS, "##ing", "...", "7")
    texts = random_texts(path, 100)
    assert texts == random_texts(path, 100)
    assert {word for text in texts for word in text.split()} == set(WORDS)
    assert [len(text.split()) for text in texts[:7]] == [1, 2, 4, 8, 16, 32, 1]
    assert len(texts) == 100


def test_words_of_clip_have_no_end_mark(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"photo</w>": 0, "a</w>": 1, "!</w>": 2}, "a</w>")).save(str(path))
    assert set(" ".join(random_texts(path, 12)).split()) == {"photo", "a"}


def test_a_vocabulary_without_words_gives_no_texts(tmp_path: Path) -> None:
    assert random_texts(_tokenizer(tmp_path / "tokenizer.json", "[UNK]", "1", "2"), 10) == []
