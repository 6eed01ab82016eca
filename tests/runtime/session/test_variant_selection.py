"""``auto`` chooses a graph from features of the machine; a named variant is used or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.artifact.manifest import Tower
from runtime.artifact.reader import read_manifest
from runtime.artifact.variants import Variant, VariantName
from runtime.errors import ProviderError, UsageError
from runtime.machine import cpu, cuda_driver
from runtime.session import machine_facts, variant_selection, verdicts
from runtime.session.open_graph import options_for_graph
from runtime.session.provider_options import OPTIONS, CpuOptions, CudaOptions, TensorRtOptions
from runtime.session.providers import PROVIDERS
from runtime.session.variant_selection import GraphChoice, choose_graph, warn_of_choice
from tests.runtime.session.variant_samples import make_variant

ARTIFACT = "5eal"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant_selection, "installed_packages", lambda: {"onnxruntime": "1.31.0"})


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def have(*flags: str, tensor_cores: bool = False) -> None:
        monkeypatch.setattr(cpu, "cpu_flags", lambda *_: frozenset(flags))
        monkeypatch.setattr(cuda_driver, "has_fp16_units", lambda device_id=0: tensor_cores)

    have()
    return have


@pytest.fixture
def tower(exported: Path) -> Tower:
    """An image tower with all variants."""
    variants: dict[VariantName, Variant] = {
        "optimized": make_variant("optimized", "cpu", "cuda"),
        "fp16": make_variant("fp16", "cuda", "tensorrt", "cpu"),
        "int8": make_variant("int8", "cpu", "openvino"),
    }
    return replace(read_manifest(exported).towers["image"], variants=variants)


def pick(tower: Tower, provider: str, asked: str = "auto") -> GraphChoice:
    """Choose as a session does, with its warnings."""
    options = OPTIONS[provider]()
    choice = choose_graph(tower, PROVIDERS[provider], options, asked, ARTIFACT)
    warn_of_choice(choice, tower, options, ARTIFACT)
    return choice


@pytest.mark.parametrize(
    ("provider", "flags", "tensor_cores", "name", "reason"),
    [
        ("cpu", ["avx512_vnni"], False, "int8", "auto: the CPU has avx512_vnni"),
        ("cpu", ["avx2"], False, "optimized", "auto: its operators are fused"),
        ("openvino", ["amx_int8"], False, "int8", "auto: the CPU has amx_int8"),
        ("openvino", [], False, "fp32", "int8 skipped: the CPU has no 8-bit integer instructions"),
        ("cuda", [], True, "fp32", "verify ARTIFACT --provider cuda --variant fp16`"),
        (
            "cuda",
            ["avx512_vnni"],
            False,
            "fp32",
            "verify ARTIFACT --provider cuda --variant optimized`",
        ),
        ("tensorrt", [], True, "fp32", "fp16 skipped: GPU 0 has not verified it; run"),
        ("tensorrt", [], False, "fp32", "fp16 skipped: GPU 0 has no tensor cores"),
    ],
)
def test_auto_chooses_a_variant_from_features_of_the_machine(
    tower: Tower, units: Any, provider: str, flags: list[str], tensor_cores: bool, name: str, reason: str
) -> None:
    units(*flags, tensor_cores=tensor_cores)
    chosen = pick(tower, provider)
    assert (chosen.name, chosen.graph) == (name, "image.onnx" if name == "fp32" else f"image.{name}.onnx")
    assert reason in chosen.reason


def test_auto_takes_a_variant_only_on_a_gpu_that_kept_the_golden_vectors(
    tower: Tower, units: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    units(tensor_cores=True)
    monkeypatch.setattr(cuda_driver, "gpu_names", lambda: ("H100",))
    monkeypatch.setattr(machine_facts, "gpu_software", dict)
    fp16 = [tower.variants["fp16"].graph]
    verdicts.settle(ARTIFACT, fp16, CudaOptions())
    assert pick(tower, "cuda").reason == "auto: GPU 0 has tensor cores; on GPU 0 the golden vectors pass"
    assert pick(tower, "tensorrt").name == "fp32", "another provider computes otherwise"
    for changed in ({"tf32": True}, {"cuda_graphs": True}, {"cudnn_search": "exhaustive"}):
        choice = choose_graph(tower, PROVIDERS["cuda"], CudaOptions(**cast("Any", changed)), "auto", ARTIFACT)
        assert choice.name == "fp32", "with other options it computes otherwise"
    assert choose_graph(tower, PROVIDERS["cuda"], CudaOptions(), "auto", "changed").name == "fp32"
    monkeypatch.setattr(cuda_driver, "gpu_names", lambda: ("T4", "H100"))
    assert pick(tower, "cuda").name == "fp32"
    on_the_second = choose_graph(tower, PROVIDERS["cuda"], CudaOptions(device_id=1), "auto", ARTIFACT)
    assert on_the_second.name == "fp16", "GPUs of one kind share a verdict"
    verdicts.settle(ARTIFACT, [tower.variants["optimized"].graph], CudaOptions())
    assert pick(tower, "cuda").reason == "auto: its operators are fused; on GPU 0 the golden vectors pass"
    verdicts.settle(ARTIFACT, fp16, TensorRtOptions(), passed=False)
    reason = pick(tower, "tensorrt").reason
    assert "fp16 skipped: on GPU 0 the golden vectors failed; to compare them again, run `python -m runtime" in reason
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert "GPU 0 has not verified it" in pick(tower, "tensorrt").reason, "that verdict was about TF32"


@pytest.mark.parametrize("updated", ["driver", "cuda", "cudnn", "this package"])
def test_after_an_update_of_software_a_gpu_verifies_again(
    tower: Tower, units: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updated: str
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    units(tensor_cores=True)
    software = {"driver": "580.95.05", "cuda": "13.0", "cudnn": "9.13.0"}
    monkeypatch.setattr(cuda_driver, "gpu_names", lambda: ("H100",))
    monkeypatch.setattr(machine_facts, "gpu_software", lambda: software)
    verdicts.settle(ARTIFACT, [tower.variants["fp16"].graph], CudaOptions())
    assert pick(tower, "cuda").name == "fp16"
    if updated in software:
        software[updated] = "99"
    else:
        monkeypatch.setattr(verdicts, "__version__", "99")
    assert pick(tower, "cuda").name == "fp32"


@pytest.mark.parametrize("name", ["fp32", "optimized", "fp16"])
def test_only_float16_lets_cuda_use_tensor_cores(name: VariantName, tower: Tower) -> None:
    choice = GraphChoice(name=name, graph="a.onnx", reason="as requested")
    expected = {"use_tf32": "1", "prefer_nhwc": "1"} if name == "fp16" else {}
    assert options_for_graph(CudaOptions(), tower, choice, ()) == expected
    assert options_for_graph(CpuOptions(), tower, choice, ()) == {}


def test_auto_is_fp32_if_there_is_no_variant(exported: Path) -> None:
    chosen = pick(read_manifest(exported).towers["image"], "cpu")
    assert chosen == GraphChoice(
        name="fp32", graph="image.onnx", reason="auto: the artifact has no variant that cpu prefers"
    )


def test_weights_laid_out_for_another_cpu_are_skipped_or_refused(tower: Tower, units: Any) -> None:
    tower = replace(tower, variants={"optimized": make_variant("optimized", "cpu", cpu_features=("avx512f",))})
    units("avx2")
    assert "optimized skipped: its weights are laid out for CPUs with avx512f" in pick(tower, "cpu").reason
    with pytest.raises(ProviderError, match="laid out for CPUs with avx512f; take fp32"):
        pick(tower, "cpu", "optimized")
    units("avx512f")
    assert pick(tower, "cpu").name == "optimized"


def test_a_named_variant_is_used_or_refused(tower: Tower, units: Any, caplog: pytest.LogCaptureFixture) -> None:
    units("avx512_vnni")
    assert pick(tower, "cpu", "fp32").graph == "image.onnx"
    assert pick(tower, "cpu", "fp16") == GraphChoice(name="fp16", graph="image.fp16.onnx", reason="as requested")
    with pytest.raises(ProviderError, match="int8 cannot run here: it is for cpu and openvino, not for cuda"):
        pick(tower, "cuda", "int8")
    with pytest.raises(UsageError, match="there is no variant 'int4'"):
        pick(tower, "cpu", "int4")
    bare = replace(tower, variants={"int8": tower.variants["int8"]})
    with pytest.raises(
        UsageError, match="the image tower of the artifact has no variant fp16, but fp32, int8; make it with"
    ):
        pick(bare, "cpu", "fp16")
    units()
    with caplog.at_level(logging.WARNING, "runtime"):
        assert pick(tower, "cpu", "int8").name == "int8"
    assert "no 8-bit integer instructions" in caplog.text


def test_operators_that_a_provider_lacks_are_named_before_onnxruntime_fails(tower: Tower, units: Any) -> None:
    fused = make_variant("optimized", "cpu", "cuda", operators=("com.microsoft:Attention",))
    with pytest.raises(ProviderError, match=r"not for openvino, which lacks the operators com\.microsoft:Attention"):
        pick(replace(tower, variants={"optimized": fused}), "openvino", "optimized")


def test_tensorrt_takes_no_fused_operators(tower: Tower, units: Any) -> None:
    fused = make_variant("fp16", "cuda", "tensorrt", operators=("com.microsoft:Attention",))
    with pytest.raises(ProviderError, match=r"TensorRT has no com\.microsoft:Attention; make the variant at --level"):
        pick(replace(tower, variants={"fp16": fused}), "tensorrt", "fp16")


def test_another_version_of_onnxruntime_is_warned_of(
    tower: Tower, units: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("avx512_vnni")
    with caplog.at_level(logging.WARNING, "runtime"):
        pick(tower, "cpu")
        assert not caplog.records, "1.31.0 is a patch away from 1.31.1"
        monkeypatch.setattr(variant_selection, "installed_packages", lambda: {"onnxruntime": "1.30.1"})
        pick(tower, "cpu")
        pick(tower, "cpu", "fp32")
    (record,) = caplog.records
    assert "int8 was checked with onnxruntime 1.31.1, but 1.30.1 is installed: run" in record.getMessage()
    assert "verify ARTIFACT --provider cpu --variant int8" in record.getMessage()


def test_a_verified_variant_is_not_warned_of_again_until_something_changes(
    tower: Tower, units: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    units("avx512_vnni")
    for module in (variant_selection, machine_facts):
        monkeypatch.setattr(module, "installed_packages", lambda: {"onnxruntime": "1.30.1"})
    verdicts.settle(ARTIFACT, [tower.variants["int8"].graph], CpuOptions())
    with caplog.at_level(logging.WARNING, "runtime"):
        pick(tower, "cpu")
        assert not caplog.records
        assert verdicts.find_verdict(ARTIFACT, [tower.variants["int8"].graph], CpuOptions(spinning=False))
        for module in (variant_selection, machine_facts):
            monkeypatch.setattr(module, "installed_packages", lambda: {"onnxruntime": "1.29.0"})
        pick(tower, "cpu")
    assert "1.29.0 is installed" in caplog.text


def test_cpu_flags_are_read_from_cpuinfo(tmp_path: Path) -> None:
    cpu_info = tmp_path / "cpuinfo"
    assert cpu.cpu_flags(cpu_info) == frozenset()
    cpu_info.write_text("processor : 0\nflags : fpu avx512_vnni\n\nprocessor : 1\nflags : fpu\n")
    assert cpu.int8_units(cpu_info) == {"avx512_vnni"}
    cpu_info.write_text("processor : 0\nFeatures : fp asimddp\n")
    assert cpu.int8_units(cpu_info) == {"asimddp"}
