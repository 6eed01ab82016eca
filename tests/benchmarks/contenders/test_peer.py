"""Contenders are found, get their settings, and say what is missing."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime
from benchmarks.contenders import fastembed, openvino, optimum, peer, sentence_transformers, torch
from benchmarks.contenders.environment import survey
from benchmarks.contenders.peer import Peer, PeerError, find_python
from benchmarks.contenders.protocol import Target
from benchmarks.contenders.registry import CONTENDERS, find_setups, load, variants_of
from benchmarks.results.schema import Precision
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError
from runtime.session.provider_options import OpenVinoOptions
from tests.benchmarks.contenders.samples import ADAPTERS, OTHER, make_setup, with_tower


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
    installed[OTHER] = {"optimum-onnx", "sentence-transformers", "openvino"}
    target = replace(target, pythons={"optimum": OTHER, "openvino": OTHER})
    setups = [setup for adapter in ADAPTERS for setup in adapter.find(target)[0]]
    assert {(setup.contender, setup.variant): setup.python for setup in setups} == {
        ("fastembed", "fp32"): sys.executable,
        ("openvino", "fp32"): OTHER,
        ("openvino", "bf16"): OTHER,
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


@pytest.mark.parametrize(
    ("variant", "precision", "provider", "expected"),
    [
        ("int8", "int8", "cpu", ("int8", None)),
        ("bf16", "bf16", "openvino", ("fp32", OpenVinoOptions(dtype="bf16"))),
        ("int8", "int8", "openvino", ("int8", OpenVinoOptions(dtype="fp32"))),
    ],
)
def test_the_runtime_gets_threads_variant_and_precision(
    variant: str,
    precision: Precision,
    provider: str,
    expected: object,
    exported_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}
    model = runtime.load(exported_text)
    monkeypatch.setattr(runtime, "load", lambda folder, **settings: given.update(settings) or model)
    setup = replace(make_setup("runtime", exported_text, variant), precision=precision, provider=provider)
    load(setup, 3, tmp_path)
    assert (given["variant"], given["provider_options"]) == expected
    assert given.items() >= {"provider": provider, "threads": 3, "tower": "text"}.items()


def test_this_environment_does_not_replace_a_named_one(installed: dict[str, set[str]], target: Target) -> None:
    installed[sys.executable] = {"fastembed"}
    setups, (skipped,) = fastembed.find(replace(target, pythons={"fastembed": OTHER}))
    assert not setups
    assert f"not installed in the environment of {OTHER}" in skipped.reason


def test_all_variants_that_are_found_are_listed(
    installed: dict[str, set[str]], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed[sys.executable] = {"sentence-transformers", "fastembed", "openvino", "optimum-onnx"}
    for module in (sentence_transformers, torch):
        monkeypatch.setattr(module, "gpu_names", lambda: ("H200",))
    monkeypatch.setattr(torch, "bf16_units", lambda: frozenset({"amx_bf16"}))
    target = replace(target, weights="random:0", providers=("cpu", "openvino", "cuda"))
    found = {name: {setup.variant for setup in find_setups(target, (name,))[0]} for name in CONTENDERS}
    assert {name for name, variants in found.items() if variants} == {"runtime", "fastembed", "openvino"}
    for name, variants in found.items():
        assert variants <= set(variants_of(name))


def test_a_gpu_adds_setups_of_torch(
    installed: dict[str, set[str]], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed[sys.executable] = {"sentence-transformers"}
    monkeypatch.setattr(sentence_transformers, "gpu_names", lambda: ("H200",))
    assert {setup.provider for setup in sentence_transformers.find(target)[0]} == {"cpu"}
    target = replace(target, providers=("cuda",))
    setups = [setup for setup in sentence_transformers.find(target)[0] if target.admits(setup)]
    assert [(setup.variant, setup.precision, setup.provider) for setup in setups] == [
        ("torch", "fp32", "cuda"),
        ("torch-fp16", "fp16", "cuda"),
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


def test_torch_has_bfloat16_on_arm(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for adapter in (torch, sentence_transformers):
        monkeypatch.setattr(adapter, "bf16_units", lambda: frozenset())
        monkeypatch.setattr(adapter, "has_arm_bf16", lambda: True)
        assert "bf16" in {setup.precision for setup in adapter.find(target)[0]}


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
    target = with_tower(target, replace(target.manifest.towers["text"], decided_by="user"))
    for adapter in (optimum, sentence_transformers):
        setups, skipped = adapter.find(target)
        assert not setups
        assert all("--pooling" in each.reason for each in skipped)


def test_layers_that_a_folder_does_not_state_are_not_compared(
    installed: dict[str, set[str]], target: Target, tmp_path: Path
) -> None:
    installed[sys.executable] = {"sentence-transformers"}
    (tmp_path / "config.json").write_text("{}")
    target, record = replace(target, weights=str(tmp_path)), target.manifest.towers["text"]
    assert sentence_transformers.find(target)[0]
    longer = with_tower(target, replace(record, layers=(*record.layers, "Dense: 24 to 8, Tanh")))
    assert not sentence_transformers.find(longer)[0]


@pytest.mark.process
def test_the_packages_of_another_interpreter_are_its_own(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site" / "openvino-1.2.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 1.2\n")
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nPYTHONPATH={site.parent} exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    assert (survey(str(other)).python, survey(str(other)).packages["openvino"]) == (platform.python_version(), "1.2")
    target = replace(target, pythons={"a": str(other)})
    assert find_python(target, "a", ["numpy"]) == str(other), "the named one has priority"
    assert find_python(target, "b", ["numpy"]) == sys.executable
    with pytest.raises(NotImplementedError, match="add no-such-distribution to PACKAGES"):
        find_python(target, "a", ["numpy", "no-such-distribution"])
    monkeypatch.setattr(peer, "PACKAGES", ("numpy", "no-such-distribution"))
    with pytest.raises(PeerError, match=f"in the environment of {other}: {other} -m pip install no-such-distribution"):
        find_python(target, "a", ["numpy", "no-such-distribution"])
    with pytest.raises(UsageError, match="cannot start"):
        find_python(replace(target, pythons={"a": str(tmp_path / "none")}), "a", ["numpy"])


@pytest.mark.process
def test_contenders_are_found_without_heavy_imports(exported_text: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.contenders import protocol, registry\n"
        "from runtime.artifact.reader import read_manifest\n"
        "folder = Path(sys.argv[1])\n"
        "manifest = read_manifest(folder)\n"
        "target = protocol.Target(folder=folder, manifest=manifest, tower='text', weights=str(folder))\n"
        "registry.find_setups(target, registry.PEERS)\n"
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
    adapter: Any, variant: str, exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastembed", "openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(optimum, "export_once", lambda *_: tmp_path)
    with pytest.raises(PeerError, match=rf"{adapter.NAME} cannot load .*ModuleNotFoundError"):
        adapter.load(make_setup(adapter.NAME, exported_text, variant), 1, tmp_path)
