"""Measure by how much the vectors of consumers differ from those of the runtime, where no file can mend it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np

from exporters.publish.source import Source
from exporters.samples.texts import TEXTS
from runtime.artifact.parity import format_cosine, row_cosines
from runtime.errors import UsageError
from runtime.inference.tower import LoadedTower
from runtime.preprocess.text import TextPreprocessor, Tokens
from runtime.session.session import SessionOptions

Habit = Literal["cuts end token", "strips", "no cleaning", "no prompt"]
_SENTENCE, _STRANGE, _LONG = TEXTS[0], TEXTS[7], TEXTS[-1]


def text_differences(source: Source, *habits: Habit, clean: Callable[[str], str] = str) -> list[str]:
    """Return what consumers with these habits do otherwise, each with the cosine similarity that it costs.

    ``clean`` is the consumer's own cleaning of a text, for ``no cleaning``.

    Habits:
        cuts end token: transformers.js cuts a long text after the end token was added, and so loses that token.
        strips: sentence-transformers before version 6 removes white space around a text.
        no cleaning: The consumer does not clean texts as open_clip does.
        no prompt: The consumer does not know the default prompt.

    Prompts with a name are a difference in any case: only sentence-transformers adds them.
    """
    tower = LoadedTower(source.folder, source.manifest.towers["text"], SessionOptions(provider="cpu", variant="fp32"))
    measured = [(habit, _measure(tower, source, habit, clean)) for habit in habits]
    found = [_WORDS[habit].format(format_cosine(cosine)) for habit, cosine in measured if cosine is not None]
    return found + _named_prompts(tower, source, given="" if "no prompt" in habits else None)


_PUT_IT_YOURSELF = "Put the prompt before each text yourself."
_WORDS: dict[Habit, str] = {
    "cuts end token": "transformers.js cuts a text that is too long after it has added the end token, and so loses "
    "that token. Cosine similarity on a long text: {}. Shorten texts yourself.",
    "strips": "sentence-transformers before version 6 removes white space around a text. Cosine similarity on a text "
    "with white space around it: {}.",
    "no cleaning": "The model cleans texts with ftfy and resolves HTML entities; the consumer does not. Cosine "
    "similarity on a text with entities and emoji: {}. Clean texts yourself.",
    "no prompt": "The model has a default prompt, which only sentence-transformers adds. Cosine similarity without it: "
    f"{{}}. {_PUT_IT_YOURSELF}",
}


def _measure(tower: LoadedTower, source: Source, habit: Habit, clean: Callable[[str], str]) -> float | None:
    """Return the cosine similarity of a text to the same text under a habit; ``None`` if the tokens are the same."""
    ours = tower.text_preprocessor
    if habit == "cuts end token":
        return _compare(tower, ours.prepare(_LONG, ""), _cut_behind(ours, _LONG, source.text.max_length))
    if habit == "strips":
        return _compare(tower, ours.prepare(f"  {_SENTENCE}\n", ""), ours.prepare(_SENTENCE, ""))
    if habit == "no prompt":
        return _compare(tower, ours.prepare(_SENTENCE), ours.prepare(_SENTENCE, ""))
    if source.text.cleaning == "none":
        return None
    plain = TextPreprocessor(replace(source.text, cleaning="none"), source.folder)
    return _compare(tower, ours.prepare(_STRANGE, ""), plain.prepare(clean(_STRANGE), ""))


def _named_prompts(tower: LoadedTower, source: Source, given: str | None) -> list[str]:
    """Return the cost of prompts that are not the default one, for a consumer that puts ``given`` before each text."""
    recipe = source.text
    cosines: dict[str, float] = {}
    for name in recipe.prompts.keys() - {recipe.default_prompt}:
        with suppress(UsageError):  # the prompt is too long, so the runtime refuses it, too
            cosine = _compare_prompts(tower, recipe.prompts[name], given)
            cosines |= {} if cosine is None else {name: cosine}
    if not cosines:
        return []
    names = " and ".join(f"`{name}`" for name in recipe.prompts if name in cosines)
    bare = given == "" or recipe.default_prompt is None
    way_out = _PUT_IT_YOURSELF if bare else "This layout adds the default prompt: give the graph token ids instead."
    return [
        f"The model has the prompts {names}, which only sentence-transformers adds, by `prompt_name`. Smallest cosine "
        f"similarity of a text without them: {format_cosine(min(cosines.values()))}. {way_out}"
    ]


def _compare_prompts(tower: LoadedTower, prompt: str, other: str | None) -> float | None:
    right, wrong = (tower.text_preprocessor.prepare(_SENTENCE, each) for each in (prompt, other))
    return _compare(tower, right, wrong)


def _cut_behind(preprocessor: TextPreprocessor, text: str, length: int) -> Tokens:
    ((_, encoding),) = preprocessor.tokenize([text])
    right = preprocessor.prepare(text, "")
    ids = encoding.ids[:length]
    return right._replace(ids=ids, type_ids=encoding.type_ids[:length] if right.type_ids else [])


def _compare(tower: LoadedTower, right: Tokens, other: Tokens) -> float | None:
    if right.ids == other.ids:
        return None
    vectors = np.concatenate([tower.embed([right]), tower.embed([other])])
    return float(row_cosines(vectors[:1], vectors[1:])[0])
