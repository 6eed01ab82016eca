"""Put a prompt before texts, then clean, tokenize, truncate and pad them, with the ``tokenizers`` library only.

The token ids equal those of transformers' ``AutoTokenizer`` for the same ``tokenizer.json``.
"""

from __future__ import annotations

import html
import json
import re
import string
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from runtime.array_types import Array
from runtime.artifact.manifest import Cleaning, TextPreprocessing
from runtime.errors import InferenceError, UsageError, needs_extra
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.preprocess.padding import mark_columns, pad_rows, padded_length
from runtime.preprocess.tokenizer_file import load_tokenizer, panics_as_errors

_CHARACTERS_PER_TOKEN = 8  # of the head of a long text that is tried first; English has about 5
_GROWTH = 5  # times; the next head, if the first has too few tokens
_SPACE_AFTER_LETTER = re.compile(r"(?<=[^\W_]) ")
# Each of these splits at a space after a letter, whatever follows, so the tokens of the head do not depend on the rest.
_SPLITTING_PRE_TOKENIZERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
_CANONICAL = str.maketrans("_", " ", string.punctuation.replace("_", ""))
_NO_TOKEN = 2**32 - 1  # an id that no tokenizer has
_OWN_IDS = "give ids of this model's tokenizer, such as those of the server's /tokenize, or the text"


class Tokens(NamedTuple):
    """The tokens of one text, with those of its prompt and the special ones.

    Attributes:
        ids: The token ids.
        truncated: Whether the text was cut to ``max_length``.
        type_ids: The type ids, if the graph takes them.
        prompt_length: Number of tokens of the prompt at the beginning, which ``pooling_mask`` leaves out.
        width: Smallest number of columns of a batch that holds the text.
    """

    ids: list[int]
    truncated: bool
    type_ids: list[int]
    prompt_length: int
    width: int


class _Prompt(NamedTuple):
    text: str
    length: int  # in tokens


class _Frame(NamedTuple):
    """The special tokens that the tokenizer puts around every text.

    Attributes:
        before: Their ids before the text.
        after: Their ids after the text.
        type_ids: The type ids of those before, of any token of the text, and of those after.
    """

    before: list[int]
    after: list[int]
    type_ids: list[int]


class TextPreprocessor:
    """Prepares texts for a graph. Several threads may use it at once."""

    def __init__(self, preprocessing: TextPreprocessing, folder: Path, multiple: int = 1) -> None:
        """Load the tokenizer from the artifact's folder. Batches are padded to a multiple of ``multiple`` tokens.

        Raises:
            IntegrityError: The file cannot be used as a tokenizer; see :func:`load_tokenizer`.
            MissingDependencyError: The cleaning of the texts needs a package that is not installed.
        """
        self._clean = _load_cleaner(preprocessing.cleaning)
        self._tokenizer = load_tokenizer(folder / preprocessing.tokenizer)
        # A tokenizer.json may have its own settings: all-MiniLM-L6-v2 pads every text to 128 tokens.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(preprocessing.max_length, direction=preprocessing.truncation_side)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._preprocessing, self._multiple = preprocessing, multiple
        cuts = preprocessing.cleaning == "none" and preprocessing.truncation_side == "right"
        self._cuts_texts = cuts and _splits_at_spaces(self._tokenizer)

    def prepare(self, item: str, prompt: str | None = None) -> Tokens:
        """Return the tokens of a text after ``prompt``; ``None`` is the default prompt of the artifact.

        Raises:
            UnusableItemError: The item is not a string, has characters that UTF-8 cannot represent, or has no token
                and the model needs one.
            UsageError: The prompt cannot be tokenized, or leaves no token for the text.
        """
        return self._prepare(item, self._measure(prompt))

    def prepare_all(self, items: Sequence[str], prompt: str | None = None) -> list[Tokens | UnusableItemError]:
        """Return the tokens of each item after ``prompt``, or its error; see :meth:`prepare`.

        The tokenizer encodes all items at once, without the GIL.

        Raises:
            UsageError: The prompt cannot be tokenized, or leaves no token for the text.
        """
        before = self._measure(prompt)
        try:
            if not all(isinstance(item, str) for item in items):
                return prepare_each(lambda item: self._prepare(item, before), items)
            encodings = self._encode([before.text + item for item in items])
        except Exception:  # noqa: BLE001  encoding one by one finds the item at fault
            return prepare_each(lambda item: self._prepare(item, before), items)
        return prepare_each(lambda encoding: self._read(encoding, before), encodings)

    def from_ids(self, ids: Sequence[int]) -> Tokens:
        """Return the tokens of a text that the caller has tokenized, special ones included.

        Raises:
            UnusableItemError: The ids are too many or none, the tokenizer has no such token, or it puts others before
                and after a text.
        """
        recipe = self._preprocessing
        if not 0 < len(ids) <= recipe.max_length:
            raise UnusableItemError(f"it has {len(ids)} tokens, and the model takes from 1 to {recipe.max_length}")
        if strange := [number for number in ids if not self._has_token(number)]:
            raise UnusableItemError(f"{strange[0]} is no token of the model; {_OWN_IDS}")
        type_ids = self._type_ids_within_frame(list(ids))
        width = recipe.max_length if recipe.padding == "max_length" else len(ids)
        return Tokens(ids=list(ids), truncated=False, type_ids=type_ids, prompt_length=0, width=width)

    def _has_token(self, number: int) -> bool:
        return 0 <= number < _NO_TOKEN and self._tokenizer.id_to_token(number) is not None

    def _type_ids_within_frame(self, ids: list[int]) -> list[int]:
        """Return the type ids of ``ids``, which must begin and end as every text of the tokenizer does."""
        before, after, type_ids = self._frame
        start, stop = len(before), len(ids) - len(after)
        if stop < start or ids[:start] != before or ids[stop:] != after:
            ends = [f"{verb} with {part}" for verb, part in (("begin", before), ("end", after)) if part]
            raise UnusableItemError(f"its token ids do not {' and '.join(ends)}, as those of a text do; {_OWN_IDS}")
        if "token_type_ids" not in self._preprocessing.inputs:
            return []
        return [*type_ids[:start], *[type_ids[start]] * (stop - start), *type_ids[start + 1 :]]

    def tokenize(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[tuple[str, Encoding]]:
        """Return each text as it is cleaned, and all its tokens, however many, with their offsets in it.

        Raises:
            UnusableItemError: A text cannot be tokenized.
            InferenceError: The tokenizer cannot start its threads.
        """
        try:
            with panics_as_errors():
                cleaned = [*map(self._clean, texts)]
                encodings = self._without_limit.encode_batch(cleaned, add_special_tokens=add_special_tokens)
        except InferenceError:
            raise
        except Exception as exc:
            raise UnusableItemError(f"a text cannot be tokenized ({exc})") from exc
        return list(zip(cleaned, encodings, strict=True))

    @cached_property
    def _without_limit(self) -> Tokenizer:
        copy = Tokenizer.from_str(self._tokenizer.to_str())
        copy.no_truncation()
        return copy

    @cached_property
    def _frame(self) -> _Frame:
        # A stand-in for the text shows where it stands, and any tokenizer takes it: it may know no word of ours.
        whole = self._tokenizer.encode("", add_special_tokens=False)
        whole.pad(1, pad_id=_NO_TOKEN)
        if (processor := self._tokenizer.post_processor) is not None:
            whole = processor.process(whole, add_special_tokens=self._preprocessing.add_special_tokens)
        at = whole.ids.index(_NO_TOKEN)
        return _Frame(whole.ids[:at], whole.ids[at + 1 :], whole.type_ids)

    def collate(self, rows: Sequence[Tokens]) -> dict[str, Array]:
        """Return the inputs of the graph, each ``[rows, length]`` int64, padded on the right."""
        recipe, stops = self._preprocessing, [len(row.ids) for row in rows]
        longest = max(row.width for row in rows)
        length = padded_length(longest, multiple=self._multiple, max_length=recipe.max_length)
        inputs: dict[str, Callable[[], Array]] = {
            "input_ids": lambda: pad_rows([row.ids for row in rows], length, recipe.pad_token_id),
            "attention_mask": lambda: mark_columns([0] * len(rows), stops, length),
            "token_type_ids": lambda: pad_rows([row.type_ids for row in rows], length, 0),
            "pooling_mask": lambda: mark_columns([row.prompt_length for row in rows], stops, length),
        }
        return {name: inputs[name]() for name in recipe.inputs}

    def _measure(self, prompt: str | None) -> _Prompt:
        """Return a prompt with its number of tokens, a special token at the end not counted.

        Source: ``_get_prompt_length`` in sentence-transformers' ``base/modules/transformer.py``.
        """
        recipe = self._preprocessing
        if prompt is None:
            prompt = recipe.default_prompt_text
        if not prompt:
            return _Prompt("", 0)
        try:
            (encoding,) = self._encode([prompt])
        except InferenceError:
            raise
        except Exception as exc:
            raise UsageError(f"the prompt {prompt!r:.80} cannot be tokenized ({exc}); give another one") from exc
        ids = encoding.ids
        if recipe.truncation_side == "right" and len(ids) >= recipe.max_length:
            raise UsageError(
                f"the prompt {prompt!r:.80} leaves no token for the text: the model takes {recipe.max_length} tokens, "
                "special ones included; give a shorter one"
            )
        return _Prompt(prompt, len(ids) - (not self._special_ids.isdisjoint(ids[-1:])))

    def _prepare(self, item: object, prompt: _Prompt) -> Tokens:
        if not isinstance(item, str):
            raise UnusableItemError(f"a {type(item).__name__} is not a text; give a string")
        try:
            (encoding,) = self._encode([prompt.text + item])
        except InferenceError:
            raise
        except Exception as exc:
            raise UnusableItemError(f"it cannot be tokenized ({_find_surrogate(item) or exc})") from exc
        return self._read(encoding, prompt)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        cleaned = [*map(self._clean, texts)]
        if not self._cuts_texts:
            return self._encode_cleaned(cleaned)
        return self._encode_heads(cleaned, _CHARACTERS_PER_TOKEN * self._preprocessing.max_length)

    def _encode_heads(self, texts: Sequence[str], least: int) -> list[Encoding]:
        """Encode the heads of long texts. Take longer ones where they have fewer tokens than the limit."""
        heads = [_take_head(text, least) for text in texts]
        encodings = self._encode_cleaned(heads)
        short = [at for at, head in enumerate(heads) if head is not texts[at] and not encodings[at].overflowing]
        if short:  # even an empty batch takes time
            longest = max(len(heads[at]) for at in short)
            longer = self._encode_heads([texts[at] for at in short], _GROWTH * longest)
            for at, encoding in zip(short, longer, strict=True):
                encodings[at] = encoding
        return encodings

    def _encode_cleaned(self, texts: Sequence[str]) -> list[Encoding]:
        special = self._preprocessing.add_special_tokens
        with panics_as_errors():
            return self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)

    def _read(self, encoding: Encoding, prompt: _Prompt) -> Tokens:
        recipe, ids = self._preprocessing, encoding.ids
        if not ids and recipe.empty_text == "refuse":
            raise UnusableItemError("the tokenizer finds no token in it, and the model needs at least one")
        return Tokens(
            ids=ids,
            truncated=bool(encoding.overflowing),
            type_ids=encoding.type_ids if "token_type_ids" in recipe.inputs else [],
            prompt_length=prompt.length,
            width=recipe.max_length if recipe.padding == "max_length" else max(1, len(ids)),
        )


def _take_head(text: str, least: int) -> str:
    """Return the beginning of a text of more than ``2 * least`` characters; other texts as they are.

    A head has at least ``least`` characters, and ends before a space after a letter. If it has more tokens than the
    limit, it has the same ids as the text, because its tokens are the first of the text.
    """
    if len(text) <= 2 * least or _find_surrogate(text):
        return text
    space = _SPACE_AFTER_LETTER.search(text, least)
    return text[: space.start()] if space else text


def _splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether a space after a letter always separates tokens, and what follows changes none before it."""
    normalizer, splitter = _describe(tokenizer.normalizer), _describe(tokenizer.pre_tokenizer)
    byte_level = splitter.get("type") == "ByteLevel" and splitter.get("use_regex", True)
    return (
        normalizer.get("type") in (None, "BertNormalizer", "Lowercase")
        and (byte_level or splitter.get("type") in _SPLITTING_PRE_TOKENIZERS)
        and not any(re.search(r"\s", token.content) for token in tokenizer.get_added_tokens_decoder().values())
    )


def _describe(part: Normalizer | PreTokenizer | None) -> dict[str, Any]:
    """Return the entry of ``tokenizer.json`` for a part, which is also its pickle, without that of the vocabulary."""
    return {} if part is None else json.loads(part.__getstate__())


def _find_surrogate(text: str) -> str | None:
    """Return the reason why ``text`` is no Unicode text, which tokenizers refuses with a bare TypeError."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return f"character {exc.start} is a lone surrogate, half a character; decode the text with errors='replace'"
    return None


def _load_cleaner(name: Cleaning) -> Callable[[str], str]:
    if name == "none":
        return str
    with needs_extra("openclip", "an artifact that cleans texts as open_clip does"):
        from ftfy import fix_text

    # Source: open_clip's tokenizers, https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/tokenizer.py
    def clean(text: str) -> str:
        text = html.unescape(html.unescape(fix_text(text)))
        if name == "ftfy_canonicalize":
            text = text.translate(_CANONICAL).lower()
        return " ".join(text.split())

    return clean
