"""Tokenizers for random weights: of a real kind, with a small vocabulary made from our texts, without training."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from exporters.texts import TEXTS


def build_tokenizer(model_type: str) -> tuple[Tokenizer, dict[str, str]]:
    """Returns a tokenizer of the kind that ``model_type`` has, and the names of its special tokens.

    Every character of our texts is a token, so that different texts have different ids.
    """
    return _unigram() if model_type == "t5" else _word_piece()


def _word_piece() -> tuple[Tokenizer, dict[str, str]]:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = [*special.values(), *_words(), *_characters(), *(f"##{character}" for character in _characters())]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, special


def _unigram() -> tuple[Tokenizer, dict[str, str]]:
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    pieces = dict.fromkeys([*special.values(), "\u2581", *(f"\u2581{word}" for word in _words()), *_characters()])
    scored = [(piece, 0.0 if piece in special.values() else -8.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, special


def _characters() -> list[str]:
    return sorted({character for text in TEXTS for character in text if not character.isspace()})


def _words() -> list[str]:
    return sorted({word for text in TEXTS for word in text.split() if word.isascii() and word.isalpha()})
