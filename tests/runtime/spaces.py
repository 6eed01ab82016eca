"""Give toy artifacts a vector space."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.artifact.manifest import Manifest, Space, Tower
from runtime.artifact.reader import read_manifest, record_file
from runtime.artifact.space import list_facts, name_space
from runtime.artifact.variants import VariantName
from tests.runtime.session.variant_samples import make_variant

UNNAMED = Space(id=f"vs1-{'0' * 16}", weights={"text": "a" * 64}, directions={"text": "0f"}, tokenizer="b" * 64)


def change_toy(folder: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest, **space: Any) -> Path:
    """Change the manifest of an artifact and fields of its space, and name the space anew."""
    manifest = change(read_manifest(folder))
    manifest = with_name(replace(manifest, space=replace(manifest.space, **space)))
    (folder / "manifest.json").write_text(manifest.to_json(), "utf-8")
    return folder


def with_name(manifest: Manifest) -> Manifest:
    """Name the space by the facts of the manifest."""
    return replace(manifest, space=replace(manifest.space, id=name_space(list_facts(manifest))))


def change_text(**fields: Any) -> Callable[[Manifest], Manifest]:
    """Return a change of fields of the text tower."""

    def change(manifest: Manifest) -> Manifest:
        return replace(manifest, towers=manifest.towers | {"text": replace(manifest.towers["text"], **fields)})

    return change


def add_variants(folder: Path, *names: VariantName) -> Path:
    """Add variants to the text tower: copies of its graph."""
    manifest = read_manifest(folder)
    tower: Tower = manifest.towers["text"]
    variants = dict(tower.variants)
    files = dict(manifest.files)
    for name in names:
        graph = f"text.{name}.onnx"
        shutil.copy(folder / tower.graph, folder / graph)
        files[graph] = record_file(folder / graph)
        variants[name] = make_variant(name, "cpu", graph=graph)
    changed = change_text(variants=variants)(replace(manifest, files=files))
    (folder / "manifest.json").write_text(changed.to_json(), "utf-8")
    return folder
