"""Choose the prompt of a call: the text that is put before each text.

Source: ``_resolve_prompt``, ``encode_query`` and ``encode_document`` of sentence-transformers,
https://github.com/huggingface/sentence-transformers
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from runtime.artifact.manifest import TextPreprocessing, Tower, TowerName
from runtime.errors import UsageError
from runtime.inference.options import EmbedOptions

Role: TypeAlias = Literal["query", "document"]
_NAMES: Mapping[str, tuple[str, ...]] = {"document": ("document", "passage", "corpus")}  # of one prompt


def resolve_prompt(options: EmbedOptions, towers: Mapping[TowerName, Tower]) -> EmbedOptions:
    """Return options with the text of the prompt that ``options`` name. Options without a prompt stay as they are.

    The names ``query`` and ``document`` are known to every model with a text tower. They put nothing before a text if
    the artifact has no such prompt. ``document`` also finds the prompts ``passage`` and ``corpus``.

    Raises:
        UsageError: None of ``towers`` embeds texts, or it has no such prompt.
    """
    if options.prompt is None and options.prompt_name is None:
        return options
    recipe = _text_preprocessing(towers)
    if recipe is None or options.tower not in (None, "text"):
        raise UsageError("prompts are for texts; leave prompt_name and prompt out, or embed with a text tower")
    if options.prompt_name is None:
        return options
    prompt = _find_prompt(options.prompt_name, recipe.prompts)
    if prompt is None:
        known = f"the artifact has {quote(recipe.prompts)}"
        none = "the artifact has no prompts; put the text of yours before each text"
        raise UsageError(f"there is no prompt called {options.prompt_name!r}; {known if recipe.prompts else none}")
    return replace(options, prompt=prompt, prompt_name=None)


def search_prompts(prompts: Mapping[str, str], default: str) -> tuple[str, str]:
    """Return the prompts for the queries and the documents of a search that measures a model.

    They are those of ``embed_query`` and ``embed_document``. If both are empty, ``default`` applies to both.

    Args:
        prompts: The prompts of the model by name.
        default: The text of its default prompt; empty if there is none.
    """
    query, document = (_find_prompt(role, prompts) or "" for role in get_args(Role))
    return (query, document) if query or document else (default, default)


def applied_prompt(options: EmbedOptions, towers: Mapping[TowerName, Tower]) -> str:
    """Return the prompt that is put before texts: the one that ``options`` ask for, or the default one.

    Raises:
        UsageError: As for :func:`resolve_prompt`.
    """
    asked, recipe = resolve_prompt(options, towers).prompt, _text_preprocessing(towers)
    if asked is not None or recipe is None:
        return asked or ""
    return recipe.default_prompt_text


def prompt_names(towers: Mapping[TowerName, Tower]) -> tuple[str, ...]:
    """Return the names of the prompts that are not empty."""
    recipe = _text_preprocessing(towers)
    return tuple(name for name, text in recipe.prompts.items() if text) if recipe else ()


def quote(names: Iterable[str]) -> str:
    """Return foreign names for a message, in which control characters must not appear."""
    return ", ".join(f"{name!r:.80}" for name in names)


def _find_prompt(name: str, prompts: Mapping[str, str]) -> str | None:
    missing = "" if name in get_args(Role) else None
    return next((prompts[each] for each in _NAMES.get(name, (name,)) if each in prompts), missing)


def _text_preprocessing(towers: Mapping[TowerName, Tower]) -> TextPreprocessing | None:
    preprocessing = towers["text"].preprocessing if "text" in towers else None
    return preprocessing if isinstance(preprocessing, TextPreprocessing) else None
