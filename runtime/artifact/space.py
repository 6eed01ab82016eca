"""Name the vector space of an artifact. Vectors can be compared if they are of the same space.

The name is a hash of facts. A fact is only what changes vectors by more than the tolerance of an export. So the graph
as exported, its optimized form and fp16 share a space. Every other precision has a space of its own, which begins with
the name of its parent, as in ``vs1-0123456789abcdef.int8-01234567``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.artifact.manifest import Manifest, Pooling, Preprocessing, TextPreprocessing, Tower, TowerName

_EXACT = ("fp32", "fp16")  # precisions that share the space of the graph as exported
# Fields of the preprocessing that do not change a vector, or that other facts tell of.
_NO_FACTS = {
    *("kind", "arithmetic", "tokenizer", "inputs", "pad_token_id", "empty_text", "min_points"),
    *("prompts", "default_prompt"),
}


def list_facts(manifest: Manifest) -> dict[str, str]:
    """Return the facts that determine the vectors of an artifact: JSON by name.

    A field with its default value is no fact, so that a field of a later version changes no older name.
    """
    facts: dict[str, Any] = {"dimensions": manifest.output_dim}
    for name, tower in manifest.towers.items():
        facts |= {f"{name} {fact}": value for fact, value in _tower_facts(tower)}
    facts |= {f"{name} weights": digest for name, digest in manifest.space.weights.items()}
    facts |= {f"{name} directions": signs for name, signs in manifest.space.directions.items()}
    facts |= {"text tokens": manifest.space.tokenizer} if manifest.space.tokenizer else {}
    return {name: json.dumps(_plain(facts[name]), sort_keys=True) for name in sorted(facts)}


def name_space(facts: Mapping[str, str]) -> str:
    """Return the name of the space with these facts."""
    return f"vs1-{_hash(json.dumps(facts, sort_keys=True))[:16]}"


def space_of(manifest: Manifest, variants: Mapping[TowerName, str]) -> str:
    """Return the name of the space of loaded graphs: variants by tower.

    The towers of an artifact share its space, so the name does not depend on the tower, but on precisions.
    """
    running = {
        variant.precision
        for tower, running_name in variants.items()
        for name, variant in manifest.towers[tower].variants.items()
        if name == running_name
    }
    precisions = sorted(running - {*_EXACT})
    if not precisions:
        return manifest.space.id
    graphs = sorted(
        manifest.files[variant.graph].sha256
        for tower in manifest.towers.values()
        for variant in tower.variants.values()
        if variant.precision in precisions
    )
    return f"{manifest.space.id}.{'-'.join(precisions)}-{_hash(''.join(graphs))[:8]}"


def parent_space(space: str) -> str:
    """Return the name of the space that a quantized one approximates; of another space, its own name."""
    return space.partition(".")[0]


def _tower_facts(tower: Tower) -> Iterator[tuple[str, Any]]:
    yield "normalized", tower.normalized
    yield "pooling", _stated(tower.pooling)
    recipe = tower.preprocessing
    yield from _stated(recipe).items()
    if isinstance(recipe, TextPreprocessing):
        prompts = {name: text for name, text in recipe.prompts.items() if text}
        default = prompts.get(recipe.default_prompt or "")
        yield from (("prompts", prompts), ("default prompt", default)) if prompts else ()
        yield from (("prompt not pooled", True),) if "pooling_mask" in recipe.inputs else ()


def _stated(record: Pooling | Preprocessing) -> dict[str, Any]:
    """Return the fields of a record that have no default, or another value than their default."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    defaults = {field.name: field.default for field in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if name not in _NO_FACTS and value != defaults[name]}


def _plain(value: Any) -> Any:
    """Return a value without whole floats: a checkpoint may state ``0`` or ``0.0``."""
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
