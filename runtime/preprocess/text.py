"""Clean, tokenize, truncate and pad texts, with the ``tokenizers`` library only.

The token ids equal those of transformers' ``AutoTokenizer`` for the same ``tokenizer.json``.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from runtime.array_types import Array
from runtime.artifact.manifest import TextPreprocessing
from runtime.errors import IntegrityError, MissingDependencyError
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.preprocess.padding import pad_tokens


class Tokens(NamedTuple):
    """The token ids of one text, special tokens included, and whether the text was cut to ``max_length``."""

    ids: list[int]
    truncated: bool


class TextPreprocessor:
    """Prepares texts for a graph."""

    def __init__(self, preprocessing: TextPreprocessing, folder: Path, multiple: int = 1) -> None:
        """Load the tokenizer from the artifact's folder. Batches are padded to a multiple of ``multiple`` tokens.

        Raises:
            IntegrityError: The file is not a tokenizer.
            MissingDependencyError: The cleaning of the texts needs a package that is not installed.
        """
        self._clean = _load_cleaner(preprocessing.cleaning)
        path = folder / preprocessing.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # tokenizers raises Exception itself
            raise IntegrityError(f"{path} cannot be loaded as a tokenizer ({exc}); export the artifact again") from exc
        # A tokenizer.json may have its own settings: all-MiniLM-L6-v2 pads every text to 128 tokens.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(preprocessing.max_length)
        self._preprocessing, self._multiple = preprocessing, multiple

    def prepare(self, item: str) -> Tokens:
        """Return the tokens of a text, special tokens included.

        Raises:
            UnusableItemError: The item is not a string, or has characters that UTF-8 cannot represent.
        """
        if not isinstance(item, str):
            raise UnusableItemError(f"a {type(item).__name__} is not a text; give a string")
        try:
            (encoding,) = self._tokenizer.encode_batch_fast([self._clean(item)])
        except Exception as exc:  # lone surrogates are refused with a bare TypeError
            raise UnusableItemError(f"it cannot be tokenized ({exc})") from exc
        return _tokens(encoding)

    def prepare_all(self, items: Sequence[str]) -> list[Tokens | UnusableItemError]:
        """Return the tokens of each item, or its error. The tokenizer encodes all items at once, without the GIL."""
        try:
            if not all(isinstance(item, str) for item in items):
                return prepare_each(self.prepare, items)
            return [_tokens(encoding) for encoding in self._tokenizer.encode_batch_fast([*map(self._clean, items)])]
        except Exception:  # noqa: BLE001  encoding one by one finds the item at fault
            return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[Tokens]) -> dict[str, Array]:
        """Return the inputs of the graph by name, ``[rows, length]`` int64, padded on the right."""
        recipe, ids = self._preprocessing, [row.ids for row in rows]
        limit = recipe.max_length
        multiple = limit if recipe.padding == "max_length" else self._multiple
        padded = pad_tokens(ids, pad_token_id=recipe.pad_token_id, multiple=multiple, max_length=limit)
        return {name: padded[name] for name in recipe.inputs}


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(encoding.ids, bool(encoding.overflowing))


def _load_cleaner(name: str) -> Callable[[str], str]:
    if name == "none":
        return str
    try:
        from ftfy import fix_text
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            "this artifact cleans texts as open_clip does, and ftfy is not installed; install it with "
            "`pip install 'embedding-backbones[openclip]'`"
        ) from exc
    # Source: open_clip's tokenizers, https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/tokenizer.py
    return lambda text: " ".join(html.unescape(html.unescape(fix_text(text))).split())
