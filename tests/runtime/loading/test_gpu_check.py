"""A variant is verified once on each GPU; the CPU stands in for it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import onnx
import pytest

import runtime
from runtime.artifact.manifest import Manifest
from runtime.artifact.reader import read_manifest, record_file
from runtime.artifact.variants import Variant, VariantName
from runtime.errors import IntegrityError, OutOfMemoryError, ProviderError
from runtime.loading import golden_check, gpu_check
from runtime.loading.gpu_check import verify_once_on_gpu
from runtime.machine import cuda_driver
from runtime.session.provider_options import CpuOptions, CudaOptions, device_of
from runtime.session.providers import PROVIDERS
from runtime.session.session import SessionOptions
from runtime.session.verdicts import find_verdict, settle
from tests.runtime.session.variant_samples import make_variant
from tests.runtime.toy_artifact import write_artifact

FP16 = make_variant("fp16", "cuda", "cpu", graph="text.fp16.onnx")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu_check, "expected_provider", lambda name: replace(PROVIDERS["cpu"], device="cuda"))
    monkeypatch.setattr(gpu_check, "find_provider_obstacle", lambda provider: None)
    monkeypatch.setattr(cuda_driver, "has_fp16_units", lambda device: True)
    monkeypatch.setattr(gpu_check, "PREFERENCES", {"cpu": {"fp16": None, "optimized": None}})
    folder = write_artifact(tmp_path / "toy")
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    return folder


@pytest.fixture
def intact(folder: Path) -> Manifest:
    return with_variants(folder, fp16=FP16)


def with_variants(folder: Path, **variants: Variant) -> Manifest:
    """Return the manifest of the folder as it is, with these variants."""
    manifest = read_manifest(folder)
    files = {**manifest.files, **{each.graph: record_file(folder / each.graph) for each in variants.values()}}
    tower = replace(manifest.towers["text"], variants=cast("dict[VariantName, Variant]", variants))
    return replace(manifest, towers={"text": tower}, files=files)


def check(folder: Path, manifest: Manifest, variant: str = "auto", **options: Any) -> bool | None:
    settings = CpuOptions(**options)
    asked = SessionOptions(variant=variant, provider_options=settings).resolved()
    verify_once_on_gpu(folder, manifest, manifest.towers, asked)
    return find_verdict(manifest.sha256, [FP16.graph], settings)


def negate(path: Path) -> None:
    model = onnx.load(path)
    last = next(node for node in model.graph.node if node.output[0] == "embedding")
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["embedding"]))
    onnx.save(model, path)


def test_a_pass_is_remembered(folder: Path, intact: Manifest) -> None:
    assert check(folder, intact, "fp32") is None, "the graph as it was exported is used as it is"
    assert check(folder, intact, "optimized") is None, "only what may run is checked"
    assert check(folder, intact) is True
    (folder / FP16.graph).unlink()
    assert check(folder, intact) is True, "it is not run again"


def test_a_miss_is_remembered_for_this_content(
    folder: Path, intact: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    negate(folder / FP16.graph)
    manifest = with_variants(folder, fp16=FP16)
    with caplog.at_level(logging.WARNING, "runtime"):
        assert check(folder, manifest) is False
    assert "is not used on this GPU: the golden vectors are not reproduced (text min cosine -1 (at least" in caplog.text
    (folder / FP16.graph).unlink()
    assert check(folder, manifest) is False, "it is not run again"
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    assert check(folder, intact) is True


def test_a_damaged_file_leaves_no_verdict(folder: Path, intact: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    negate(folder / FP16.graph)
    with caplog.at_level(logging.WARNING, "runtime"):
        assert check(folder, intact) is None
    assert "has changed since export" in caplog.text
    with pytest.raises(IntegrityError, match="has changed since export"):
        check(folder, intact, "fp16")
    shutil.copy(folder / "text.onnx", folder / FP16.graph)
    assert check(folder, intact) is True


def test_a_named_variant_that_misses_is_refused_until_it_passes(folder: Path, intact: Manifest) -> None:
    settle(intact.sha256, [FP16.graph], CpuOptions(), passed=False)
    assert check(folder, intact) is False
    assert check(folder, intact, "fp16") is True, "a named variant is compared anew"
    negate(folder / FP16.graph)
    manifest = with_variants(folder, fp16=FP16)
    for _ in range(2):
        with pytest.raises(
            ProviderError, match=r"fp16 of the text tower cannot be used on this GPU: .*; take fp32, or"
        ):
            check(folder, manifest, "fp16")


def test_load_looks_for_verdicts_on_its_artifact(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    optimized = make_variant("optimized", "cpu", graph=FP16.graph, onnxruntime="1.0")
    (folder / "manifest.json").write_text(with_variants(folder, optimized=optimized).to_json(), "utf-8")
    with caplog.at_level(logging.WARNING, "runtime"):
        assert runtime.load(folder, provider="cpu").variant == "optimized"
        assert "was checked with onnxruntime 1.0" in caplog.text
        caplog.clear()
        assert runtime.load(folder, provider="cpu").variant == "optimized"
    assert not caplog.records, "the first load has verified it"


def test_the_next_variant_is_checked_if_the_first_misses(folder: Path) -> None:
    optimized = make_variant("optimized", "cuda", "cpu", graph="text.optimized.onnx")
    shutil.copy(folder / "text.onnx", folder / optimized.graph)
    for passes in (True, False):
        if not passes:
            negate(folder / FP16.graph)
        manifest = with_variants(folder, fp16=FP16, optimized=optimized)
        assert check(folder, manifest) is passes
        assert find_verdict(manifest.sha256, [optimized.graph], CpuOptions()) is (None if passes else True)


def test_a_miss_in_a_reduced_precision_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.session.open_graph.check_arm_bf16", lambda _: None)
    negate(folder / FP16.graph)
    with pytest.raises(ProviderError, match=r"with arm_bf16 \(text .*\); leave the option out, or take fp32"):
        check(folder, with_variants(folder, fp16=FP16), "fp16", arm_bf16=True)


def test_a_check_that_fails_to_run_is_repeated(
    folder: Path, intact: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*_: object) -> None:
        raise OutOfMemoryError("no memory")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "runtime"):
        patch.setattr(golden_check, "verify_towers", out_of_memory)
        assert check(folder, intact) is None
        assert check(folder, intact, "fp16") is None
    assert "is not used on this GPU: no memory" in caplog.text
    assert "was not verified on this GPU: no memory" in caplog.text, "a named variant never runs unchecked in silence"
    assert check(folder, intact) is True


def test_the_first_check_waits_for_tensor_cores(
    folder: Path, intact: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_driver, "has_fp16_units", lambda device: False)
    assert check(folder, intact) is None


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


def test_a_provider_that_is_not_installed_is_no_matter_of_the_variant(
    folder: Path, intact: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "find_provider_obstacle", lambda provider: "it is not installed")
    assert check(folder, intact) is None
