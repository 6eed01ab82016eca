"""Which graph runs: the fastest that is made for this machine, or the one that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.artifact.manifest import Tower
from runtime.artifact.reader import read_manifest
from runtime.artifact.variants import Floors, Variant, VariantName, VariantParity
from runtime.errors import ProviderError, UsageError
from runtime.machine import cpu as hardware
from runtime.session import variant_selection as choice
from runtime.session.provider_options import OPTIONS
from runtime.session.providers import PROVIDERS
from runtime.session.variant_selection import Choice, choose

FLOORS = Floors(min_cosine=0.99, min_overlap=0.9, min_invariance=0.999)
PARITY = VariantParity(
    provider="cpu",
    items=64,
    min_cosine=0.999,
    p1_cosine=0.999,
    mean_cosine=0.9999,
    max_abs_error=0.01,
    reference_scale=1.0,
    neighbour_overlap=0.95,
    batch_cosine=1.0,
    thread_cosine=1.0,
    floors=FLOORS,
)


def make_variant(name: str, *providers: str, **changes: Any) -> Variant:
    common: dict[str, Any] = {
        "precision": "fp32" if name == "optimized" else name,
        "level": "none",
        "graph": f"image.{name}.onnx",
        "providers": providers,
        "onnxruntime": "1.31.1",
        "parity": PARITY,
    }
    return Variant(**common | changes)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "installed_packages", lambda: {"onnxruntime": "1.31.0"})


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def have(*flags: str, tensor_cores: bool = False) -> None:
        monkeypatch.setattr(hardware, "cpu_flags", lambda *_: frozenset(flags))
        monkeypatch.setattr(hardware, "has_fp16_units", lambda device_id=0: tensor_cores)

    have()
    return have


@pytest.fixture
def tower(exported: Path) -> Tower:
    """Has all variants."""
    variants: dict[VariantName, Variant] = {
        "optimized": make_variant("optimized", "cpu", "cuda"),
        "fp16": make_variant("fp16", "cuda", "tensorrt", "cpu"),
        "int8": make_variant("int8", "cpu", "openvino"),
    }
    return replace(read_manifest(exported).towers["image"], variants=variants)


def pick(tower: Tower, provider: str, asked: str = "auto") -> Choice:
    return choose(tower, PROVIDERS[provider], OPTIONS[provider](), asked)


@pytest.mark.parametrize(
    ("provider", "flags", "tensor_cores", "name", "reason"),
    [
        ("cpu", ["avx512_vnni"], False, "int8", "auto: the CPU has avx512_vnni"),
        ("cpu", ["avx2"], False, "optimized", "auto: its operators are fused"),
        ("openvino", ["amx_int8"], False, "int8", "auto: the CPU has amx_int8"),
        ("openvino", [], False, "fp32", "int8 passed over: the CPU has no units for 8-bit products"),
        ("cuda", [], True, "fp16", "auto: the GPU 0 has tensor cores"),
        ("cuda", ["avx512_vnni"], False, "optimized", "auto: its operators are fused"),
        ("tensorrt", [], False, "fp32", "fp16 passed over: the GPU 0 has no tensor cores"),
    ],
)
def test_auto_takes_what_the_machine_is_made_for(
    tower: Tower, units: Any, provider: str, flags: list[str], tensor_cores: bool, name: str, reason: str
) -> None:
    units(*flags, tensor_cores=tensor_cores)
    chosen = pick(tower, provider)
    assert (chosen.name, chosen.graph) == (name, "image.onnx" if name == "fp32" else f"image.{name}.onnx")
    assert reason in chosen.reason


def test_auto_is_fp32_where_there_is_nothing_else(exported: Path) -> None:
    chosen = pick(read_manifest(exported).towers["image"], "cpu")
    assert chosen == Choice(
        name="fp32", graph="image.onnx", reason="auto: the artifact has no variant that cpu prefers"
    )


def test_weights_laid_out_for_another_cpu_are_passed_over_and_refused(tower: Tower, units: Any) -> None:
    tower = replace(tower, variants={"optimized": make_variant("optimized", "cpu", cpu_features=("avx512f",))})
    units("avx2")
    assert "optimized passed over: its weights are laid out for CPUs with avx512f" in pick(tower, "cpu").reason
    with pytest.raises(ProviderError, match="laid out for CPUs with avx512f; take fp32"):
        pick(tower, "cpu", "optimized")
    units("avx512f")
    assert pick(tower, "cpu").name == "optimized"


def test_what_is_asked_for_is_taken_or_refused(tower: Tower, units: Any, caplog: pytest.LogCaptureFixture) -> None:
    units("avx512_vnni")
    assert pick(tower, "cpu", "fp32").graph == "image.onnx"
    assert pick(tower, "cpu", "fp16") == Choice(name="fp16", graph="image.fp16.onnx", reason="as requested")
    with pytest.raises(ProviderError, match="int8 cannot run here: it is for cpu and openvino, not for cuda"):
        pick(tower, "cuda", "int8")
    with pytest.raises(UsageError, match="there is no variant 'int4'"):
        pick(tower, "cpu", "int4")
    bare = replace(tower, variants={"int8": tower.variants["int8"]})
    with pytest.raises(UsageError, match="has no fp16 of its image tower, but fp32, int8; make it with"):
        pick(bare, "cpu", "fp16")
    units()
    with caplog.at_level(logging.WARNING, "runtime"):
        assert pick(tower, "cpu", "int8").name == "int8"
    assert "no units for int8" in caplog.text


def test_operators_that_a_provider_lacks_are_named_before_onnxruntime_fails(tower: Tower, units: Any) -> None:
    fused = make_variant("optimized", "cpu", "cuda", operators=("com.microsoft:Attention",))
    with pytest.raises(ProviderError, match=r"not for openvino, which lacks the operators com\.microsoft:Attention"):
        pick(replace(tower, variants={"optimized": fused}), "openvino", "optimized")


def test_another_onnxruntime_than_the_proven_one_is_warned_of(
    tower: Tower, units: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("avx512_vnni")
    with caplog.at_level(logging.WARNING, "runtime"):
        pick(tower, "cpu")
        assert not caplog.records, "1.31.0 is a patch away from 1.31.1"
        monkeypatch.setattr(choice, "installed_packages", lambda: {"onnxruntime": "1.30.1"})
        pick(tower, "cpu")
        pick(tower, "cpu", "fp32")
    (record,) = caplog.records
    assert "int8 was proven with onnxruntime 1.31.1, and 1.30.1 is installed: check it" in record.getMessage()
    assert "verify --variant int8" in record.getMessage()


def test_flags_are_those_that_linux_names(tmp_path: Path) -> None:
    cpu_info = tmp_path / "cpuinfo"
    assert hardware.cpu_flags(cpu_info) == frozenset()
    cpu_info.write_text("processor : 0\nflags : fpu avx512_vnni\n\nprocessor : 1\nflags : fpu\n")
    assert hardware.int8_units(cpu_info) == {"avx512_vnni"}
    cpu_info.write_text("processor : 0\nFeatures : fp asimddp\n")
    assert hardware.int8_units(cpu_info) == {"asimddp"}
