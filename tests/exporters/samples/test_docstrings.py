"""Texts from docstrings are real and of mixed length."""

from __future__ import annotations

from exporters.samples.docstrings import load_texts


def test_texts_are_real_and_of_mixed_length() -> None:
    texts = load_texts(300)
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) > 250
    assert min(lengths) < 5
    assert max(lengths) > 100
    assert load_texts(300) == texts
