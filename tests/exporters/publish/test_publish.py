from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.cli.main import main
from exporters.errors import DestinationError, PublishError
from exporters.publish import huggingface
from exporters.publish import publish as module
from exporters.publish.names import LAYOUT_NAMES
from exporters.publish.proof import run_graph, tokenize
from exporters.publish.publish import LAYOUTS, publish
from exporters.publish.push import push
from exporters.publish.sentence_chain import Module, apply_chain
from exporters.publish.sentence_files import write_sentence_files
from exporters.publish.source import Source
from runtime.artifact.manifest import Pooling
from runtime.artifact.reader import read_manifest
from runtime.artifact.variants import VariantName
from runtime.errors import IntegrityError, MissingDependencyError, UsageError
from tests.exporters.publish.toys import (
    DIM,
    TEXTS,
    add_variant,
    damage,
    write_clip_artifact,
    write_image_artifact,
    write_mesh_artifact,
    write_text_artifact,
)
from tests.paths import ROOT

TEXT_LAYOUTS = ["huggingface", "single", "triton", "opensearch"]


def test_every_layout_has_a_name_on_the_command_line() -> None:
    assert set(LAYOUTS) == set(LAYOUT_NAMES)


@pytest.mark.parametrize("method", ["mean", "cls", "lasttoken"])
def test_layouts_of_texts_give_the_golden_vectors(method: Any, tmp_path: Path) -> None:
    artifact = write_text_artifact(tmp_path / "toy", pooling=Pooling(method=method), int8=True)
    folders = publish(artifact, TEXT_LAYOUTS, tmp_path / "out")
    assert folders == [tmp_path / "out" / name for name in TEXT_LAYOUTS]
    hub = folders[0]
    assert {path.name for path in (hub / "onnx").iterdir()} == {
        *("model.onnx", "model_quantized.onnx", "model_qint8_avx512_vnni.onnx")
    }
    assert json.loads((hub / "tokenizer_config.json").read_text())["model_max_length"] == 8
    assert json.loads((hub / "sentence_bert_config.json").read_text())["max_seq_length"] == 8
    kinds = [entry["type"].rpartition(".")[2] for entry in json.loads((hub / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert "| int8 | 1 - " in (hub / "README.md").read_text()
    for folder in folders:
        assert re.search(r"\| 1( - \S+)? \|", (folder / "README.md").read_text())
        assert not [path for path in folder.rglob("*") if path.name.startswith("tmp")]


def test_the_hub_layout_has_token_features_and_vectors(tmp_path: Path) -> None:
    (hub,) = publish(write_text_artifact(tmp_path / "toy"), ["huggingface"], tmp_path / "out", token_types=True)
    inputs = tokenize(hub, TEXTS)
    tokens, vectors = run_graph(hub / "onnx/model.onnx", inputs)
    assert tokens.shape == (2, 8, 6)
    assert vectors.shape == (2, DIM)
    assert np.abs(tokens[1, 4:]).max() > 0  # padding is not masked: a consumer's own pooling does that
    expected = ["input_ids", "attention_mask", "token_type_ids"]
    assert json.loads((hub / "tokenizer_config.json").read_text())["model_input_names"] == expected


@pytest.mark.parametrize(
    ("write", "layout"),
    [
        (write_text_artifact, "triton"),
        (write_text_artifact, "opensearch"),
        (write_clip_artifact, "clip-js"),
        (write_clip_artifact, "immich"),
        (write_image_artifact, "fastembed"),
    ],
)
def test_token_types_are_refused_by_a_layout_that_would_ignore_them(
    write: Callable[[Path], Path], layout: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"the layout {layout} takes no --token-type-ids; leave that out, or"):
        publish(write(tmp_path / "toy"), [layout], tmp_path / "out", token_types=True)
    assert not (tmp_path / "out").exists()


def test_towers_of_a_clip_give_the_golden_vectors(tmp_path: Path) -> None:
    artifact = write_clip_artifact(tmp_path / "toy", crop_rounding="floor", alpha="white")
    folders = publish(artifact, ["clip-js", "immich", "triton", "fastembed"], tmp_path / "out")
    assert {path.name for path in (folders[0] / "onnx").iterdir()} == {"text_model.onnx", "vision_model.onnx"}
    assert json.loads((folders[0] / "config.json").read_text())["model_type"] == "clip"
    readers = {folder.name for folder in folders if "puts it on white" in (folder / "README.md").read_text("utf-8")}
    assert readers == {"clip-js", "immich", "fastembed"}  # Triton takes pixels
    settings = json.loads((folders[1] / "visual/preprocess_cfg.json").read_text())
    assert (settings["size"], settings["interpolation"]) == ([8, 8], "bicubic")
    assert {path.name for path in folders[2].iterdir()} == {
        *("README.md", "toy-image", "toy-text", "toy-text-graph", "toy-text-tokenizer")
    }


@pytest.mark.parametrize(
    ("fields", "size", "resample"),
    [
        ({"arithmetic": "graph"}, {"shortest_edge": 11}, 3),
        ({"arithmetic": "caller", "resize": "squash", "interpolation": "bilinear"}, {"height": 11, "width": 11}, 2),
    ],
)
def test_an_image_encoder_takes_normalised_pixels(fields: Any, size: Any, resample: int, tmp_path: Path) -> None:
    artifact = write_image_artifact(tmp_path / "toy", resize_size=11, **fields)
    (folder, _) = publish(artifact, ["fastembed", "triton"], tmp_path / "out")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    assert (config["size"], config["resample"]) == (size, resample)
    (vectors,) = run_graph(folder / "model.onnx", {"pixel_values": np.zeros((2, 3, 8, 8), np.float32)})
    assert vectors.shape == (2, DIM)
    assert "to even: smallest cosine similarity" in (folder / "README.md").read_text()


def test_a_mesh_encoder_goes_to_triton(tmp_path: Path) -> None:
    (folder,) = publish(write_mesh_artifact(tmp_path / "toy"), ["triton"], tmp_path / "out")
    assert "dims: -1\n  dims: 3" in (folder / "toy/config.pbtxt").read_text()


def test_a_prompt_is_stated_and_measured(tmp_path: Path) -> None:
    artifact = write_text_artifact(tmp_path / "toy", prompts={"query": "query : "}, default_prompt="query")
    (hub, triton) = publish(artifact, ["huggingface", "triton"], tmp_path / "out")
    assert json.loads((hub / "config_sentence_transformers.json").read_text())["prompts"] == {"query": "query : "}
    assert "Cosine similarity without it: 0." in (hub / "README.md").read_text()
    assert "Cosine similarity without it" not in (triton / "README.md").read_text()


@pytest.mark.parametrize(
    ("default", "single_says", "triton_says"),
    [
        (None, "prompts `query` and `document`", "Put the prompt before each text yourself."),
        ("query", "prompts `document`", "This layout adds the default prompt: give the graph token ids instead."),
    ],
)
def test_prompts_for_queries_and_documents_are_a_difference(
    default: str | None, single_says: str, triton_says: str, tmp_path: Path
) -> None:
    prompts = {"query": "a b ", "document": "d d ", "empty": "", "too long": "a b c d a b c d "}
    artifact = write_text_artifact(tmp_path / "toy", prompts=prompts, default_prompt=default)
    single, triton = publish(artifact, ["single", "triton"], tmp_path / "out")
    for folder, words in ((single, single_says), (triton, triton_says)):
        card = (folder / "README.md").read_text()
        assert re.search(r"Smallest cosine similarity of a text without them: -?0\.", card)
        assert words in card
        assert "Nowhere that we know of" not in card


def test_the_upload_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"embedding-backbones\[publish\]"):
        push(tmp_path, "me/toy")


def test_a_pooling_without_the_prompt_is_for_sentence_transformers_alone(tmp_path: Path) -> None:
    inputs = ("input_ids", "attention_mask", "pooling_mask")
    artifact = write_text_artifact(tmp_path / "toy", inputs=inputs, prompts={"query": "query : "})
    (hub,) = publish(artifact, ["huggingface"], tmp_path / "out")
    assert json.loads((hub / "1_Pooling/config.json").read_text())["include_prompt"] is False
    assert "leaves the tokens of a prompt out" in (hub / "README.md").read_text()
    with pytest.raises(PublishError, match="single: the model leaves the tokens of its prompt out"):
        publish(artifact, ["single"], tmp_path / "other")


def test_the_archive_for_opensearch_has_one_row_for_each_text(tmp_path: Path) -> None:
    (folder,) = publish(write_text_artifact(tmp_path / "toy"), ["opensearch"], tmp_path / "out")
    config = json.loads((folder / "ml-commons_model_config.json").read_text())
    assert config["model_config"]["embedding_dimension"] == DIM
    assert config["model_content_size_in_bytes"] == (folder / "toy.zip").stat().st_size
    with zipfile.ZipFile(folder / "toy.zip") as archive:
        assert archive.namelist() == ["model.onnx", "tokenizer.json"]


@pytest.mark.parametrize(
    ("write", "layout", "reason"),
    [
        (write_mesh_artifact, "huggingface", "it takes texts, and the artifact embeds mesh"),
        (write_mesh_artifact, "clip-js", "it takes texts, and the artifact embeds mesh"),
        (write_mesh_artifact, "immich", "it takes texts and images, and the artifact embeds mesh"),
        (write_mesh_artifact, "fastembed", "it takes images, and the artifact embeds mesh"),
        (write_image_artifact, "openvino", "it takes texts, and the artifact embeds image"),
        (write_image_artifact, "opensearch", "it takes texts, and the artifact embeds image"),
        (write_text_artifact, "clip-js", "it takes images, and the artifact embeds text"),
        (write_text_artifact, "fastembed", "it takes images, and the artifact embeds text"),
        (write_clip_artifact, "huggingface", "it takes texts alone; clip-js and immich take the two towers"),
        (
            lambda folder: write_text_artifact(folder, pooling=Pooling(method="gem", p=3, eps=1e-6)),
            "huggingface",
            "the pooling gem is none of sentence-transformers",
        ),
        (lambda folder: write_clip_artifact(folder, resize_size=9), "immich", "it resizes images to the side of"),
        (lambda folder: write_clip_artifact(folder, truncation_side="left"), "immich", "it keeps the beginning"),
        *(
            (
                lambda folder: write_clip_artifact(folder, cleaning="ftfy_canonicalize"),
                layout,
                "the model takes texts in lower case without punctuation",
            )
            for layout in ("triton", "clip-js")
        ),
        (
            lambda folder: write_image_artifact(folder, resize="long_side"),
            "fastembed",
            "its consumers resize the shorter side",
        ),
        (
            lambda folder: write_image_artifact(folder, resize_size=6, fill=(1, 2, 3)),
            "fastembed",
            "its consumers fill the border of a small image with black",
        ),
    ],
)
def test_what_a_consumer_cannot_have_is_refused(
    write: Callable[[Path], Path], layout: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(PublishError, match=f"cannot have the layout {layout}: {reason}"):
        publish(write(tmp_path / "toy"), [layout], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_immich_canonicalizes_texts(tmp_path: Path) -> None:
    artifact = write_clip_artifact(tmp_path / "toy", cleaning="ftfy_canonicalize")
    (folder,) = publish(artifact, ["immich"], tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["text_cfg"]["tokenizer_kwargs"] == {"clean": "canonicalize"}
    card = (folder / "README.md").read_text("utf-8")
    assert "immich removes underscores" in card
    assert "immich joins" not in card


def test_variants_that_are_not_there_are_refused(tmp_path: Path) -> None:
    artifact = write_text_artifact(tmp_path / "toy", int8=True)
    add_variant(artifact, "optimized", "text", cpu_features=("avx512f",))
    refused: tuple[tuple[VariantName, str], ...] = (("fp16", "is not"), ("optimized", "is laid out for the CPU that"))
    for name, reason in refused:
        with pytest.raises(PublishError, match=f"it can hold fp32, int8 of the text tower, and {name} {reason}"):
            publish(artifact, ["huggingface"], tmp_path / "out", variants=[name])
    with pytest.raises(PublishError, match="single: it holds one graph of each tower; name one by --variant"):
        publish(artifact, ["single"], tmp_path / "out", variants=["fp32", "int8"])
    (folder,) = publish(artifact, ["single"], tmp_path / "out", variants=["int8"])
    assert "| int8 |" in (folder / "README.md").read_text()
    (folder,) = publish(artifact, ["huggingface"], tmp_path / "both", variants=["int8", "fp32"])
    assert 'model_kwargs={"file_name": "onnx/model_quantized.onnx"}' in (folder / "README.md").read_text()


@pytest.mark.parametrize("layout", TEXT_LAYOUTS)
@pytest.mark.parametrize("change", [np.flipud, lambda vectors: 2 * vectors], ids=["order", "length"])
def test_a_layout_that_gives_other_vectors_is_not_written(layout: str, change: Any, tmp_path: Path) -> None:
    artifact = write_text_artifact(tmp_path / "toy")
    damage(artifact, change=change)
    with pytest.raises(PublishError, match="does not give the vectors of the export: min cosine"):
        publish(artifact, [layout], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_written_modules_that_give_other_vectors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "apply_chain", lambda *arguments: -apply_chain(*arguments))
    with pytest.raises(PublishError, match=r"model\.onnx with modules\.json does not give the vectors"):
        publish(write_text_artifact(tmp_path / "toy"), ["huggingface"], tmp_path / "out")


def test_sentence_transformers_gets_the_similarity_and_the_dimensions(tmp_path: Path) -> None:
    artifact = write_text_artifact(tmp_path / "toy")
    manifest = replace(read_manifest(artifact), similarity_function="dot")
    modules = [Module(kind="Dense", config={"out_features": DIM + 1})]
    write_sentence_files(Source(folder=artifact, manifest=manifest), tmp_path, modules, DIM)
    settings = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert (settings["similarity_fn_name"], settings["truncate_dim"]) == ("dot", DIM)


@pytest.mark.parametrize(("layout", "tower"), [("clip-js", "image"), ("immich", "image"), ("immich", "text")])
def test_a_tower_that_gives_other_vectors_is_not_written(layout: str, tower: Any, tmp_path: Path) -> None:
    artifact = write_clip_artifact(tmp_path / "toy")
    damage(artifact, tower)
    with pytest.raises(PublishError, match="does not give the vectors of the export"):
        publish(artifact, [layout], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_nothing_is_left_of_an_interrupted_publication(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    artifact = write_text_artifact(tmp_path / "toy")
    monkeypatch.setattr(module, "write_card", fail)
    with pytest.raises(error):
        publish(artifact, ["single"], tmp_path / "new/out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, small_disk: Callable[[], AbstractContextManager[None]]) -> None:
    artifact = write_text_artifact(tmp_path / "toy")
    with small_disk(), pytest.raises(DestinationError, match=r"cannot write .*free some disk space"):
        publish(artifact, ["triton", "huggingface"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_an_existing_folder_and_a_damaged_artifact_are_refused(tmp_path: Path) -> None:
    artifact = write_text_artifact(tmp_path / "toy")
    with pytest.raises(DestinationError, match="toy exists; remove it"):
        publish(artifact, ["single"], artifact)
    (artifact / "text.onnx").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"text\.onnx has changed"):
        publish(artifact, ["single"], tmp_path / "out")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, out = write_text_artifact(tmp_path / "toy"), tmp_path / "out"
    assert main(["publish", str(artifact), "--to", "single", "triton", "-o", str(out), "--variant", "fp32"]) == 0
    assert f"{out / 'triton'}: its README.md says how to use it" in capsys.readouterr().out
    assert main(["publish", str(artifact), "--to", "clip-js", "-o", str(tmp_path / "other")]) == 1
    assert "cannot have the layout clip-js" in capsys.readouterr().err
    words = ["publish", str(artifact), "--to", "single,triton", "-o", str(tmp_path / "other"), "--push", "me/toy"]
    assert main(words) == 2
    assert "--push uploads one layout" in capsys.readouterr().err
    assert main([*words[:3], "single", "-o", str(tmp_path / "other"), "--private"]) == 2
    assert "--private is for --push" in capsys.readouterr().err


def test_a_layout_is_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, Any, Any]] = []

    class Api:
        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
            calls.append(("create", repo_id, (private, exist_ok)))
            return f"https://hub/{repo_id}"

        def upload_folder(
            self, *, folder_path: Path, repo_id: str, commit_message: str, delete_patterns: list[str]
        ) -> None:
            if repo_id == "me/refused":
                raise OSError("no network")
            calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))
            older = ["onnx/model_quantized.onnx", "onnx/model.onnx_data", "openvino/openvino_model.bin", "LICENSE"]
            assert [path for path in older if not any(fnmatch(path, each) for each in delete_patterns)] == ["LICENSE"]

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    artifact = write_text_artifact(tmp_path / "toy")
    words = ["publish", str(artifact), "--to", "single", "--push"]
    assert main([*words, "me/toy", "-o", str(tmp_path / "out")]) == 0
    files = ["README.md", "model.onnx", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert calls == [("create", "me/toy", (None, True)), ("upload", "me/toy", files)]
    assert main([*words, "me/secret", "--private", "-o", str(tmp_path / "private")]) == 0
    assert calls[2] == ("create", "me/secret", (True, True))
    assert main([*words, "me/refused", "--private", "-o", str(tmp_path / "other")]) == 1
    folder = tmp_path / "other/single"
    advice = f"log in by `hf auth login`, and upload it by `hf upload me/refused {folder} . --private --delete"
    assert advice in capsys.readouterr().err


@pytest.mark.process
def test_no_torch_is_imported(tmp_path: Path) -> None:
    clip, text = write_clip_artifact(tmp_path / "clip"), write_text_artifact(tmp_path / "text")
    code = f"""
import sys
for name in ("torch", "torchvision", "transformers", "sentence_transformers", "onnxscript"):
    sys.modules[name] = None  # an import fails
from exporters.cli.main import main
assert main(["publish", {str(text)!r}, "--to", "huggingface,single,triton,opensearch", "-o", "a"]) == 0
assert main(["publish", {str(clip)!r}, "--to", "clip-js,immich,fastembed", "-o", "b"]) == 0
assert main(["publish", {str(text)!r}, "--to", "openvino", "-o", "c"]) == 1
"""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the layout openvino needs" in done.stderr
    assert "pip install 'embedding-backbones[publish-openvino]'" in done.stderr
