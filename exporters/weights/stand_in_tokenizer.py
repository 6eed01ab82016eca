"""Tokenizers for random weights: real algorithms with a small vocabulary from the sample texts, without training.

English texts have two to three times as many tokens as with the tokenizers of trained models.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from exporters.samples.texts import TEXTS


def build_stand_in_tokenizer(model_type: str, max_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the algorithm of ``model_type``.

    Every character of the sample texts is a token, so different texts have different ids.

    Args:
        model_type: transformers' name of the architecture.
        max_length: Largest number of tokens; longer texts are cut.
    """
    if model_type == "t5":
        backend, special = _unigram("$A </s>", pad="<pad>", eos="</s>", unk="<unk>")
    elif model_type == "xlm-roberta":
        backend, special = _unigram("<s> $A </s>", bos="<s>", pad="<pad>", eos="</s>", unk="<unk>")
    else:
        backend, special = _word_piece()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=max_length, **special
    )


def build_stand_in_clip_tokenizer(max_length: int, *, bos_token_id: int, eos_token_id: int) -> CLIPTokenizer:
    """Return a CLIP tokenizer whose tokens are single bytes.

    Args:
        max_length: Largest number of tokens; longer texts are cut.
        bos_token_id: Id of the token that begins a text, from the model's configuration.
        eos_token_id: Id of the token that ends a text. The model pools at this token.
    """
    symbols = pre_tokenizers.ByteLevel.alphabet()
    pieces = [symbol + end for symbol in sorted(symbols) for end in ("", "</w>")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": bos_token_id, "<|endoftext|>": eos_token_id}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=max_length)


def _word_piece() -> tuple[Tokenizer, dict[str, str]]:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = [*special.values(), *_words(), *_characters(), *(f"##{character}" for character in _characters())]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    used = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=used)
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, special


def _unigram(template: str, **special: str) -> tuple[Tokenizer, dict[str, str]]:
    """Return a Unigram tokenizer. The ids of the special tokens are their places in ``special``."""
    tokens = [*special.values()]
    pieces = dict.fromkeys([*tokens, "\u2581", *(f"\u2581{word}" for word in _words()), *_characters()])
    scores = [(piece, 0.0 if piece in tokens else -8.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=tokens.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    used = [(token, tokens.index(token)) for token in template.split() if token in tokens]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return tokenizer, {f"{name}_token": token for name, token in special.items()}


def _characters() -> list[str]:
    return sorted({character for text in TEXTS for character in text if not character.isspace()})


def _words() -> list[str]:
    return sorted({word for text in TEXTS for word in text.split() if word.isascii() and word.isalpha()})
