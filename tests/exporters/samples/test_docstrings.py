"""Texts from docstrings are real and of mixed length."""

from __future__ import annotations

import pytest

from exporters.samples import docstrings
from exporters.samples.docstrings import load_texts
from runtime.errors import UsageError


def test_texts_are_real_and_of_mixed_length() -> None:
    texts = load_texts(300)
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) == 300
    assert min(lengths) < 5
    assert max(lengths) > 100
    assert load_texts(300) == texts


def test_no_text_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "_docstrings", lambda: iter("abacadaefg"))
    assert load_texts(4) == ["a", "b", "c", "d"]
    assert load_texts(5, step=4) == ["a", "f", "b", "d", "g"], "those between follow"
    with pytest.raises(UsageError, match=r"gives 7 distinct texts, and 8 are needed; ask for fewer by --items"):
        load_texts(8, step=4)
