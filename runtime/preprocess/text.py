"""Texts: clean, tokenize with the ``tokenizers`` library alone, cut with notice, pad to the longest of a batch.

Gives the ids that transformers' ``AutoTokenizer`` gives for the same ``tokenizer.json``.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from runtime.artifact.manifest import TextPreprocessing
from runtime.errors import IntegrityError, MissingDependencyError
from runtime.preprocess import UnusableItemError, prepare_each
from runtime.preprocess.padding import round_up


class Tokens(NamedTuple):
    """One text, tokenized.

    Attributes:
        ids: Token ids, special ones included, at most ``max_length``.
        truncated: Whether the text was cut to fit.
    """

    ids: list[int]
    truncated: bool


class TextPreprocessor:
    """Prepares texts for a graph."""

    def __init__(self, preprocessing: TextPreprocessing, folder: Path, multiple: int = 1) -> None:
        """Loads the tokenizer from the artifact's folder.

        Args:
            preprocessing: The artifact's record.
            folder: Its folder.
            multiple: Batches are padded to a multiple of this many tokens, as far as the model takes them.

        Raises:
            IntegrityError: The file is no tokenizer.
            MissingDependencyError: The texts are to be cleaned by a package that is not installed.
        """
        self._clean = _find_cleaning(preprocessing.cleaning)
        path = folder / preprocessing.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # tokenizers raises Exception itself
            raise IntegrityError(f"{path} cannot be loaded as a tokenizer ({exc}); export the artifact again") from exc
        # A tokenizer.json may hold settings of its own, such as all-MiniLM-L6-v2's padding of every text to 128.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(preprocessing.max_length)
        self._pad = preprocessing.pad_token_id
        self._max_length = preprocessing.max_length
        self._multiple = multiple

    def prepare(self, item: str) -> Tokens:
        """Returns the tokens of a text, special ones added.

        Raises:
            UnusableItemError: It is not a string, or holds what no encoding can represent.
        """
        if not isinstance(item, str):
            raise UnusableItemError(f"a {type(item).__name__} is not a text; give a string")
        try:
            (encoding,) = self._tokenizer.encode_batch_fast([self._clean(item)])
        except Exception as exc:  # lone surrogates are refused with a bare TypeError
            raise UnusableItemError(f"it cannot be tokenized ({exc})") from exc
        return _tokens(encoding)

    def prepare_all(self, items: Sequence[str]) -> list[Tokens | UnusableItemError]:
        """Returns :meth:`prepare` of each item, or what it raises; several at once, without holding the GIL."""
        try:
            if not all(isinstance(item, str) for item in items):
                return prepare_each(self.prepare, items)
            return [_tokens(encoding) for encoding in self._tokenizer.encode_batch_fast([*map(self._clean, items)])]
        except Exception:  # noqa: BLE001  one of them cannot be tokenized: which, and why, each alone will tell
            return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[Tokens]) -> dict[str, np.ndarray[Any, Any]]:
        """Returns ``input_ids`` and ``attention_mask``, ``[rows, longest]`` int64, padded on the right."""
        longest = max(len(row.ids) for row in rows)
        longest = max(longest, min(round_up(longest, self._multiple), self._max_length))
        input_ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for index, row in enumerate(rows):
            input_ids[index, : len(row.ids)] = row.ids
            attention_mask[index, : len(row.ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(encoding.ids, bool(encoding.overflowing))


def _find_cleaning(name: str) -> Callable[[str], str]:
    if name == "none":
        return str
    try:
        from ftfy import fix_text
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            "this artifact cleans texts as open_clip does, for which it needs ftfy; install it with "
            "`pip install 'embedding-backbones[openclip]'`"
        ) from exc
    # Source: open_clip's tokenizers, https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/tokenizer.py
    return lambda text: " ".join(html.unescape(html.unescape(fix_text(text))).split())
