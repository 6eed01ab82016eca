"""A variant is verified once on each GPU; the CPU stands in for it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import runtime
from runtime.artifact.manifest import Manifest
from runtime.artifact.reader import read_manifest
from runtime.errors import ProviderError
from runtime.loading import gpu_check
from runtime.loading.gpu_check import verify_once_on_gpu
from runtime.machine import cuda_driver
from runtime.session.provider_options import CudaOptions, ReducedPrecision, device_of
from runtime.session.providers import PROVIDERS
from runtime.session.session import SessionOptions
from runtime.session.verdicts import find_verdict
from tests.runtime.session.variant_samples import make_variant
from tests.runtime.toy_artifact import write_artifact

FP16 = make_variant("fp16", "cuda", "cpu", graph="text.fp16.onnx")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu_check, "expected_provider", lambda name: replace(PROVIDERS["cpu"], device="cuda"))
    monkeypatch.setattr(cuda_driver, "has_fp16_units", lambda device: True)
    monkeypatch.setattr(gpu_check, "PREFERENCES", {"cpu": {"fp16": None, "optimized": None}})
    folder = write_artifact(tmp_path / "toy")
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    return folder


def with_fp16(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    tower = replace(manifest.towers["text"], variants={"fp16": FP16})
    return replace(manifest, towers={"text": tower}, files={**manifest.files, FP16.graph: manifest.files["text.onnx"]})


def check(folder: Path, variant: str = "auto") -> bool | None:
    manifest = with_fp16(folder)
    verify_once_on_gpu(folder, manifest, manifest.towers, SessionOptions(variant=variant).resolved())
    return find_verdict(FP16, "cpu")


def negate(path: Path) -> None:
    model = onnx.load(path)
    last = next(node for node in model.graph.node if node.output[0] == "embedding")
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["embedding"]))
    onnx.save(model, path)


def test_a_pass_is_remembered(folder: Path) -> None:
    assert check(folder, "fp32") is None, "the graph as it was exported is used as it is"
    assert check(folder, "optimized") is None, "only what may run is checked"
    assert check(folder) is True
    (folder / FP16.graph).unlink()
    assert check(folder) is True, "it is not run again"


def test_a_miss_is_remembered(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    negate(folder / FP16.graph)
    with caplog.at_level(logging.WARNING, "runtime"):
        assert check(folder) is False
    assert "this GPU misses the golden vectors (min cosine -1, at least 0.99)" in caplog.text
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    assert check(folder) is False


def test_a_named_variant_that_misses_is_refused_until_it_passes(folder: Path) -> None:
    negate(folder / FP16.graph)
    for _ in range(2):
        with pytest.raises(ProviderError, match=r"fp16 of the text tower cannot be used: this GPU misses .*take fp32"):
            check(folder, "fp16")
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    assert check(folder, "fp16") is True


def test_the_next_variant_is_checked_if_the_first_misses(folder: Path) -> None:
    optimized = make_variant("optimized", "cuda", "cpu", graph="text.optimized.onnx")
    shutil.copy(folder / "text.onnx", folder / optimized.graph)
    manifest = with_fp16(folder)
    text = replace(manifest.towers["text"], variants={"fp16": FP16, "optimized": optimized})
    files = {**manifest.files, optimized.graph: manifest.files["text.onnx"]}
    manifest = replace(manifest, towers={"text": text}, files=files)
    for passes in (True, False):
        if not passes:
            negate(folder / FP16.graph)
            shutil.rmtree(folder.parent / "cache")
        verify_once_on_gpu(folder, manifest, manifest.towers, SessionOptions().resolved())
        assert find_verdict(FP16, "cpu") is passes
        assert find_verdict(optimized, "cpu") is (None if passes else True)


def test_a_miss_in_a_reduced_precision_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    negate(folder / FP16.graph)
    reduced = ReducedPrecision("tf32", "with tf32", "leave the option out")
    monkeypatch.setattr(gpu_check, "find_reduced_precision", lambda options: reduced)
    with pytest.raises(ProviderError, match=r"at least .*\) with tf32; leave the option out, or take fp32"):
        check(folder, "fp16")


def test_a_check_that_fails_to_run_is_repeated(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / FP16.graph).unlink()
    with caplog.at_level(logging.WARNING, "runtime"):
        assert check(folder) is None
        assert check(folder, "fp16") is None
    assert "is not used on this GPU" in caplog.text
    assert "was not verified on this GPU" in caplog.text, "a named variant never runs unchecked in silence"
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    assert check(folder) is True


def test_the_first_check_waits_for_tensor_cores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "has_fp16_units", lambda device: False)
    assert check(folder) is None


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [({}, [0]), ({"device_ids": [1, 2]}, [1, 2]), ({"device_ids": [3]}, [3]), ({"workers": 2}, [0])],
    ids=str,
)
def test_each_gpu_that_will_run_is_checked(
    arguments: dict[str, Any], devices: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def check(folder: Path, manifest: Manifest, towers: Any, options: SessionOptions) -> None:
        checked.append(device_of(options.provider_options or CudaOptions()))

    monkeypatch.setattr("runtime.loading.load.verify_once_on_gpu", check)
    monkeypatch.setattr("runtime.loading.load.open_in_best_precision", lambda *_: None)
    runtime.load(folder, provider="cuda", **arguments)
    assert checked == devices
