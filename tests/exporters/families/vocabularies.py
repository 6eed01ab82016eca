"""Tokenizers of every family, with about a thousand pieces that are trained on text of the standard library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pydoc_data.topics import topics
from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase

SIZE = 900
SCRIPTS = (
    "Eine Katze schläft auf dem Sofa, während draußen der Regen trommelt.",
    "東京の夜景は、高い塔の上から見るといちばん美しい。",
    "القطة نائمة على الأريكة والمطر يهطل في الخارج",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
)
PIECES = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}

NAMES: Mapping[str, Mapping[str, str]] = {
    "bert": {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    "eurobert": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|pad|>",
    },
}


def _corpus() -> Iterable[str]:
    lines = [line for topic in sorted(topics) for line in topics[topic].splitlines() if line.strip()]
    return [*lines[:3000], *SCRIPTS]


def _model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    return dict(document["model"])


@cache
def _word_pieces() -> tuple[str, ...]:
    tokenizer = Tokenizer(models.WordPiece(unk_token=PIECES["bert"][1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(_corpus(), trainers.WordPieceTrainer(vocab_size=SIZE, show_progress=False))
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))


@cache
def _byte_pairs() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    model = _model_of(tokenizer)
    return tuple(model["vocab"]), tuple((left, right) for left, right in model["merges"])


@cache
def _metaspace_pairs() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=SIZE, show_progress=False))
    model = _model_of(tokenizer)
    return tuple(model["vocab"]), tuple((left, right) for left, right in model["merges"])


@cache
def _scores() -> tuple[tuple[str, float], ...]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=special, unk_token=special[0], show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tuple((piece, score) for piece, score in _model_of(tokenizer)["vocab"] if piece not in special)


def _ids(*pieces: str) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def word_piece(name: str = "BertTokenizer", special: Iterable[str] = PIECES["bert"], **options: Any) -> Any:
    """Return a WordPiece tokenizer of a class of transformers."""
    return getattr(transformers, name)(vocab=_ids(*special, *_word_pieces()), **options)


def byte_level(name: str = "RobertaTokenizer", special: Iterable[str] = PIECES["roberta"], **options: Any) -> Any:
    """Return a byte-level BPE tokenizer of a class of transformers."""
    pieces, merges = _byte_pairs()
    return getattr(transformers, name)(vocab=_ids(*special, *pieces), merges=list(merges), **options)


def fast_byte_level(special: Iterable[str], **options: Any) -> Any:
    """Return a byte-level BPE tokenizer of no class of its own, as ModernBERT's."""
    pieces, merges = _byte_pairs()
    backend = Tokenizer(models.BPE(vocab=_ids(*special, *pieces), merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, **options)


def byte_fallback(name: str, special: Iterable[str], **options: Any) -> Any:
    """Return a BPE tokenizer over words that begin with a space, with a token for each byte, as of Llama and Gemma."""
    pieces, merges = _metaspace_pairs()
    numbers = [f"<0x{number:02X}>" for number in range(256)]
    return getattr(transformers, name)(vocab=_ids(*special, *numbers, *pieces), merges=list(merges), **options)


def unigram(name: str = "XLMRobertaTokenizer", special: Iterable[str] = PIECES["roberta"], **options: Any) -> Any:
    """Return a Unigram tokenizer of a class of transformers."""
    vocabulary = [*((piece, 0.0) for piece in special), *(pair for pair in _scores() if pair[0] not in special)]
    return getattr(transformers, name)(vocab=vocabulary, **options)


def surround(tokenizer: Any, template: str) -> PreTrainedTokenizerBase:
    """Let the tokenizer put special tokens around a text, as the post-processor of a tokenizer.json does."""
    used = [(word, tokenizer.convert_tokens_to_ids(word)) for word in template.split() if word != "$A"]
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    surrounded: PreTrainedTokenizerBase = tokenizer
    return surrounded
