from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.artifact.manifest import Manifest, Pooling, TextPreprocessing
from runtime.artifact.variants import VariantName
from runtime.cli.main import main
from runtime.jobs.compat import compare_spaces
from tests.runtime.spaces import add_variants, change_text, change_toy
from tests.runtime.toy_artifact import write_artifact


def recipe(**fields: Any) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        found = manifest.towers["text"].preprocessing
        assert isinstance(found, TextPreprocessing)
        return change_text(preprocessing=replace(found, **fields))(manifest)

    return change


def renamed(manifest: Manifest) -> Manifest:
    return replace(manifest, name="other", provenance=replace(manifest.provenance, packages={"torch": "9.9"}))


CHANGES: dict[str, tuple[Callable[[Manifest], Manifest], dict[str, Any], set[str]]] = {
    "the same": (lambda manifest: manifest, {}, set()),
    "another export": (renamed, {}, set()),
    "weights": (lambda manifest: manifest, {"weights": {"text": "c" * 64}}, {"text weights"}),
    "computation": (lambda manifest: manifest, {"directions": {"text": "f0"}}, {"text directions"}),
    "tokenizer": (lambda manifest: manifest, {"tokenizer": "c" * 64}, {"text tokens"}),
    "pooling": (change_text(pooling=Pooling(method="cls")), {}, {"text pooling"}),
    "normalisation": (change_text(normalized=True), {}, {"text normalized"}),
    "prompt": (
        recipe(prompts={"query": "query : "}, default_prompt="query"),
        {},
        {"text prompts", "text default prompt"},
    ),
    "length": (recipe(max_length=6), {}, {"text max_length"}),
    "preprocessing": (recipe(truncation_side="left"), {}, {"text truncation_side"}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_two_artifacts_are_told_apart(case: str, tmp_path: Path) -> None:
    change, space, different = CHANGES[case]
    one = write_artifact(tmp_path / "one")
    other = change_toy(Path(shutil.copytree(one, tmp_path / "other")), change, **space)
    found = compare_spaces(one, other)
    assert set(found.differences) == different
    assert found.comparable == (not different)
    (golden,) = found.golden
    # a default prompt puts words before the items
    assert golden.is_close == (case != "prompt")


def test_other_dimensions_are_told_apart(tmp_path: Path) -> None:
    one = write_artifact(tmp_path / "one")
    other = write_artifact(tmp_path / "other", inputs=("input_ids", "attention_mask"))
    found = compare_spaces(one, other)
    assert (found.comparable, found.golden) == (False, [])
    assert found.differences["dimensions"] == ("4", "2")


@pytest.mark.parametrize(
    ("variants", "comparable"),
    [
        (("fp32", "optimized"), True),
        (("fp16", "fp32"), True),
        (("fp32", "int8"), False),
        (("int8", "compact"), False),
        (("int8", "int8"), True),
    ],
)
def test_variants_are_told_apart(variants: tuple[VariantName, VariantName], comparable: bool, tmp_path: Path) -> None:
    one = add_variants(write_artifact(tmp_path / "one"), "optimized", "fp16", "int8", "compact")
    found = compare_spaces(one, one, variant=variants[0], other_variant=variants[1])
    assert found.comparable == comparable
    assert set(found.differences) == (set() if comparable else {"quantized"})
    if not comparable:
        assert "quantized differently; run the same variant" in found.reason


def test_equal_names_with_other_vectors_are_not_believed(tmp_path: Path) -> None:
    one = write_artifact(tmp_path / "one", inputs=("input_ids", "attention_mask", "token_type_ids"))
    other = write_artifact(tmp_path / "other", inputs=("input_ids", "token_type_ids", "attention_mask"))
    found = compare_spaces(one, other)
    assert found.sides[0].space == found.sides[1].space
    assert not found.comparable
    assert "not the golden vectors" in found.reason


def test_an_artifact_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = add_variants(write_artifact(tmp_path / "one"), "int8")
    other = change_toy(write_artifact(tmp_path / "other"), weights={"text": "c" * 64})
    path = str(tmp_path / "v.npz")
    words = ["embed", str(one), "a b", "c", "-o", path, "--variant", "int8", "--truncate-dim", "3", "--prompt", "d "]
    assert main(words) == 0
    assert [main(["compat", *words]) for words in ([str(one), path], [str(other), path])] == [1, 1]
    printed = capsys.readouterr().out
    assert "differs       quantized: - and int8-" in printed
    assert f'differs       text weights: "{"c" * 64}" and "{"a" * 64}"' in printed
    assert main(["compat", str(one), path, "--variant", "int8"]) == 0
    printed = capsys.readouterr().out
    assert "made with the prompt 'd '" in printed
    assert "only the first 3 dimensions are stored" in printed


def test_a_file_that_names_no_space_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_artifact(tmp_path / "toy")
    np.save(tmp_path / "v.npy", np.ones((2, 4), np.float32))
    assert main(["compat", str(folder), str(tmp_path / "v.npy")]) == 1
    assert "comparable    unknown: the file names no space" in capsys.readouterr().out
    assert main(["compat", str(folder), str(tmp_path / "none")]) == 2
