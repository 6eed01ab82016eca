"""Test that a description names what an artifact does to texts, and what is unusual about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runtime.artifact.describe import describe_export, describe_manifest, weight_warnings
from runtime.artifact.manifest import Manifest, Pooling, Tower
from runtime.artifact.reader import read_manifest
from tests.runtime.toy_artifact import write_artifact


def _change(manifest: Manifest, **fields: object) -> Manifest:
    tower: Tower = replace(manifest.towers["text"], **fields)  # type: ignore[arg-type]
    return replace(manifest, towers={"text": tower})


def test_everything_that_is_done_to_a_text_is_said(tmp_path: Path) -> None:
    folder = write_artifact(
        tmp_path / "toy",
        add_special_tokens=False,
        truncation_side="left",
        padding="max_length",
        empty_text="refuse",
        prompts={"query": "query : ", "document": "", "long": "x" * 500},
        default_prompt="query",
    )
    manifest = _change(
        read_manifest(folder),
        pooling=Pooling(method="lasttoken", others=("mean",)),
        layers=("Dense 4 to 4, tanh", "Normalize"),
        reference="sentence-transformers",
    )
    text = describe_manifest(manifest)
    for fact in (
        "without special tokens, at most 8 tokens, longer texts lose their beginning, all texts padded to 8",
        "the prompt's tokens not pooled, a text without tokens refused",
        "prompts     'query': 'query : ', 'long': 'xxxx",
        "(default: 'query')",
        "pooling     lasttoken and mean (decided by the checkpoint)",
        "layers      Dense 4 to 4, tanh, Normalize",
        "max abs error 1e-07 to sentence-transformers, 2 inputs at batch 1, 8",
    ):
        assert fact in text, fact
    assert "document" not in text
    assert max(map(len, text.splitlines())) < 250
    assert "to sentence-transformers" in describe_export(folder, manifest)


def test_characters_that_drive_a_terminal_are_escaped(tmp_path: Path) -> None:
    manifest = read_manifest(write_artifact(tmp_path / "toy", prompts={"query": "\x1b[2J"}))
    weights = replace(manifest.weights, description="\x1b]0;title\x07", licence="a\nname  forged", revision="\u202e")
    text = describe_manifest(replace(manifest, name="\x1b[31mtoy\r", weights=weights))
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"name          \x1b[31mtoy\r" in text
    assert r"licence     a\nname  forged" in text
    assert "\x1b" not in describe_export(tmp_path, replace(manifest, weights=weights))


def test_an_artifact_of_today_has_no_line_about_prompts_and_layers(tmp_path: Path) -> None:
    text = describe_manifest(read_manifest(write_artifact(tmp_path / "toy", prompts={"query": ""})))
    assert "prompts  " not in text
    assert "layers  " not in text
    assert "at most 8 tokens" in text


def test_code_of_the_checkpoint_is_a_warning(tmp_path: Path) -> None:
    manifest = read_manifest(write_artifact(tmp_path / "toy"))
    manifest = replace(manifest, weights=replace(manifest.weights, remote_code=True))
    assert "code of the checkpoint itself was run" in weight_warnings(manifest)[0]
    assert "WARNING     code of the checkpoint itself was run" in describe_manifest(manifest)


def test_the_tokenizer_of_a_folder_is_no_stand_in(tmp_path: Path) -> None:
    manifest = replace(read_manifest(write_artifact(tmp_path / "toy")), architecture="transformer")  # the catalogue's
    assert "stand-in" in weight_warnings(manifest)[0]
    assert "stand-in" not in weight_warnings(replace(manifest, architecture="bert"))[0]
