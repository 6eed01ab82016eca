from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import runtime
from runtime.artifact.manifest import ImagePreprocessing, Manifest, Space, TextPreprocessing
from runtime.artifact.reader import read_manifest
from runtime.artifact.space import list_facts, name_space, parent_space, space_of
from tests.runtime.spaces import add_variants, change_text
from tests.runtime.toy_artifact import write_artifact, write_mesh_artifact


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(write_artifact(tmp_path / "toy", image=True))


def with_recipe(manifest: Manifest, **fields: Any) -> Manifest:
    recipe = manifest.towers["text"].preprocessing
    assert isinstance(recipe, TextPreprocessing)
    return change_text(preprocessing=replace(recipe, **fields))(manifest)


def test_a_default_is_no_fact_so_that_a_later_field_changes_no_name(manifest: Manifest) -> None:
    names = list_facts(manifest)
    assert "text truncation_side" not in names
    assert "text truncation_side" in list_facts(with_recipe(manifest, truncation_side="left"))


def test_what_changes_a_vector_is_a_fact(manifest: Manifest, tmp_path: Path) -> None:
    facts = list_facts(manifest)
    assert (facts["text prompt not pooled"], facts["image mean"]) == ("true", "[0, 0, 0]")
    assert list_facts(read_manifest(write_mesh_artifact(tmp_path / "mesh")))["mesh seed"] == "0"
    tower = manifest.towers["image"]
    image = replace(tower, preprocessing=replace(cast("ImagePreprocessing", tower.preprocessing), fill=(9, 9, 9)))
    assert list_facts(replace(manifest, towers=manifest.towers | {"image": image}))["image fill"] == "[9, 9, 9]"


@pytest.mark.parametrize("fields", [{"pad_token_id": 3}, {"empty_text": "refuse"}, {"prompts": {"document": ""}}])
def test_what_changes_no_vector_is_no_fact(fields: dict[str, Any], manifest: Manifest) -> None:
    assert list_facts(with_recipe(manifest, **fields)) == list_facts(manifest)


def test_who_normalises_pixels_is_no_fact_and_a_whole_number_is_one(manifest: Manifest) -> None:
    tower = manifest.towers["image"]
    recipe = tower.preprocessing
    assert isinstance(recipe, ImagePreprocessing)
    by_caller = replace(recipe, arithmetic="caller", mean=(0.0, 0.0, 0.0))
    other = replace(tower, preprocessing=by_caller, inputs=by_caller.graph_inputs())
    assert list_facts(replace(manifest, towers=manifest.towers | {"image": other})) == list_facts(manifest)


def test_the_name_of_these_facts_never_changes() -> None:
    assert name_space({"dimensions": "4", "text pooling": '{"method": "mean"}'}) == "vs1-e5bcfa9aa4c5129c"


def test_only_fp32_and_fp16_share_the_space(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy")
    manifest = read_manifest(add_variants(folder, "optimized", "fp16", "int8", "compact"))
    spaces = {name: space_of(manifest, {"text": name}) for name in ("fp32", *manifest.towers["text"].variants)}
    assert spaces["fp32"] == spaces["optimized"] == spaces["fp16"] == manifest.space.id
    assert spaces["int8"].startswith(f"{manifest.space.id}.int8-")
    assert spaces["compact"].startswith(f"{manifest.space.id}.compact-")
    unlisted: Any = "int4"  # of a later version
    variant = replace(manifest.towers["text"].variants["int8"], precision=unlisted)
    of_int4 = space_of(change_text(variants={"int8": variant})(manifest), {"text": "int8"})
    assert of_int4.startswith(f"{manifest.space.id}.int4-")
    assert {parent_space(space) for space in spaces.values()} == {manifest.space.id}
    assert runtime.load(folder, provider="cpu", variant="int8").space == spaces["int8"]


@pytest.mark.parametrize("name", ["", "vs1-0", "vs1-0123456789abcdef\r\nx: y", "vs2-0123456789abcdef"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(runtime.UsageError, match="is not vs1- and 16 hexadecimal digits"):
        Space(id=name, weights={}, directions={})
