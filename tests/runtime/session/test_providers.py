"""A provider is used, or refused with the cause. It is never replaced silently."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import runtime
from runtime.artifact.reader import read_manifest
from runtime.machine import cuda_driver
from runtime.session import providers, session
from runtime.session.open_graph import open_graph
from runtime.session.session import SessionOptions
from tests.runtime.session.variant_samples import make_variant


def test_a_provider_of_another_package_is_refused_with_the_package_to_install(exported: Path) -> None:
    with pytest.raises(
        runtime.ProviderError, match=r"cuda is not in the installed package onnxruntime .*embedding-backbones\[gpu\]"
    ):
        runtime.load(exported, provider="cuda")
    with pytest.raises(runtime.ProviderError, match=r"embedding-backbones\[openvino\]"):
        runtime.load(exported, provider="openvino")


def test_an_unknown_provider_is_wrong_usage(exported: Path) -> None:
    with pytest.raises(runtime.UsageError, match="auto, cuda, tensorrt, openvino, cpu"):
        runtime.load(exported, provider="npu")


def test_the_active_provider_has_a_reason(exported: Path) -> None:
    assert runtime.load(exported, provider="cpu").provider_reason == "as requested"
    auto = runtime.load(exported)
    assert auto.provider == "cpu"
    assert "first usable" in auto.provider_reason


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_fallback_inside_onnxruntime_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If CUDA does not start, onnxruntime continues with the CPU and only logs it."""
    monkeypatch.setattr("runtime.session.open_graph.find_provider_obstacle", lambda _: None)
    with pytest.raises(runtime.ProviderError, match="did not start the provider cuda"):
        runtime.load(exported, provider="cuda")


def test_auto_tells_the_providers_that_it_skips(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        session, "available_providers", lambda: [providers.PROVIDERS["cuda"], providers.PROVIDERS["cpu"]]
    )
    monkeypatch.setattr(
        "runtime.session.open_graph.find_provider_obstacle", lambda p: "no GPU" if p.name == "cuda" else None
    )
    with caplog.at_level(logging.WARNING, "runtime"):
        model = runtime.load(exported)
    assert model.provider == "cpu"
    assert "skipped as unusable: cuda" in model.provider_reason
    assert "skips cuda: no GPU" in caplog.text


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(providers, "available_providers", lambda: list(providers.PROVIDERS.values()))
    monkeypatch.setattr(cuda_driver, "start_driver", fail)
    obstacle = providers.find_provider_obstacle(providers.PROVIDERS["cuda"])
    assert obstacle is not None
    assert "libcuda.so.1" in obstacle
    assert "nvidia-smi" in obstacle


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("shared", "openvino"):
        (tmp_path / "capi").mkdir(exist_ok=True)
        (tmp_path / "capi" / f"libonnxruntime_providers_{name}.so").write_bytes(b"no library")
    package = type("FakeOnnxruntime", (), {"__file__": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(providers, "available_providers", lambda: list(providers.PROVIDERS.values()))
    monkeypatch.setattr(providers, "import_onnxruntime", lambda: package)
    obstacle = providers.find_provider_obstacle(providers.PROVIDERS["openvino"])
    assert obstacle is not None
    assert "libonnxruntime_providers_shared.so" in obstacle
    assert "embedding-backbones[openvino]" in obstacle


def _pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name in names:
            return "1.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_two_packages_at_once_are_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(runtime.ProviderError, match="pip uninstall -y onnxruntime-gpu onnxruntime"):
        runtime.load(exported, provider="cpu")


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_no_package_is_refused_with_the_choices(provider: str, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = read_manifest(exported).towers["image"]
    tower = replace(tower, variants={"optimized": make_variant("optimized", "cpu", graph=tower.graph)})
    _pretend_installed(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(runtime.MissingDependencyError, match=r"\[cpu\].*\[openvino\].*\[gpu\]"):
        session.Session(exported, tower, SessionOptions(provider=provider))


def test_defaults_of_every_provider_compute_in_float32() -> None:
    assert runtime.CudaOptions().settings(2)["use_tf32"] == "0"
    config = json.loads(runtime.OpenVinoOptions().settings(2)["load_config"])["CPU"]
    assert config == {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": "2",
        "PERFORMANCE_HINT": "LATENCY",
    }


def test_a_failed_run_does_not_go_on_with_the_cpu(exported: Path) -> None:
    """onnxruntime only prints when it falls back, so its fallback must be off."""
    graph = open_graph(exported / "image.onnx", providers.PROVIDERS["cpu"], runtime.CpuOptions(), 1)
    assert not graph._enable_fallback


@pytest.mark.parametrize("threads", [0, -1, 100_000, "2", 1.5])
def test_threads_that_no_machine_has_are_wrong_usage(exported: Path, threads: Any) -> None:
    with pytest.raises(runtime.UsageError, match=f"threads is {threads!r}"):
        runtime.load(exported, threads=threads)


def test_a_graph_that_onnxruntime_cannot_load_is_refused(artifact: Path) -> None:
    (artifact / "image.onnx").write_bytes(b"no graph")
    with pytest.raises(runtime.IntegrityError, match=r"image\.onnx is not an ONNX graph"):
        runtime.load(artifact, check_hashes=False)


def test_a_graph_of_another_artifact_is_refused(artifact: Path, exported_float32: Path) -> None:
    (artifact / "image.onnx").write_bytes((exported_float32 / "image.onnx").read_bytes())
    with pytest.raises(runtime.IntegrityError, match="pixel_values"):
        runtime.load(artifact, check_hashes=False)


def test_a_graph_that_is_too_new_for_onnxruntime_is_not_called_damaged(artifact: Path) -> None:
    graph = onnx.load(artifact / "image.onnx")
    graph.opset_import[0].version = 99
    onnx.save(graph, artifact / "image.onnx")
    with pytest.raises(runtime.ArtifactError, match=r"too new for the installed onnxruntime .*opset 99.*upgrade"):
        runtime.load(artifact, check_hashes=False)
