"""Test the choice between bfloat16 and float32. The CPU provider stands in for OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.artifact.reader import read_manifest
from runtime.loading import bf16_precision as openvino
from runtime.loading.bf16_precision import open_in_best_precision
from runtime.machine import cpu
from runtime.machine.cpu import bf16_units
from runtime.session.provider_options import OpenVinoOptions
from runtime.session.session import Session, SessionOptions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *names: monkeypatch.setattr(openvino, "bf16_units", lambda: set(names))


@pytest.fixture
def choose(exported: Path) -> Callable[..., list[str]]:
    """Return a function that opens the artifact, and returns the precisions that were tried."""

    def load(dtype: Any = "auto", provider: str = "openvino") -> list[str]:
        opened: list[str] = []

        def open_embedder(options: SessionOptions) -> runtime.Embedder:
            chosen = options.provider_options
            opened.append(chosen.dtype if isinstance(chosen, OpenVinoOptions) else "another provider")
            return runtime.load(exported, provider="cpu")

        options = SessionOptions(provider=provider, provider_options=OpenVinoOptions(dtype=dtype))
        if provider != "openvino":
            options = replace(options, provider_options=None)
        open_in_best_precision(exported, read_manifest(exported), options, open_embedder)
        return opened

    return load


def test_bf16_is_chosen_and_stored_if_the_golden_vectors_pass(
    units: Callable[..., None], choose: Callable[..., list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("amx_bf16")
    assert choose() == ["bf16"]
    assert len(list(cache.rglob("bf16-*.json"))) == 1
    monkeypatch.setattr(openvino, "verify_towers", None)  # a second measurement would call it
    assert choose() == ["bf16"]


def test_fp32_is_chosen_and_logged_if_the_golden_vectors_fail(
    units: Callable[..., None],
    choose: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    units("amx_bf16")
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *arguments, **options: run(*arguments, **options)[:, ::-1])
    with caplog.at_level(logging.WARNING, "runtime"):
        assert choose() == ["bf16", "fp32"]
    assert "computes in float32: in bfloat16, the golden vectors are at" in caplog.text
    assert choose() == ["fp32"], "the result is stored"


def test_a_graph_that_cannot_run_in_bf16_runs_in_fp32(
    units: Callable[..., None], choose: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    units("amx_bf16")
    monkeypatch.setattr(
        Session, "run", lambda self, feeds, stop, **options: np.full((len(feeds["pixels"]), 12), np.nan)
    )
    assert choose() == ["bf16", "fp32"]


def test_a_damaged_result_is_measured_again(
    units: Callable[..., None], choose: Callable[..., list[str]], cache: Path
) -> None:
    units("amx_bf16")
    choose()
    (stored,) = cache.rglob("bf16-*.json")
    stored.write_text('{"passes"')
    assert choose() == ["bf16"]
    assert "figures" in stored.read_text()


def test_cpus_without_amx_use_fp32(units: Callable[..., None], choose: Callable[..., list[str]]) -> None:
    units()
    assert choose() == ["fp32"]
    units("avx512_bf16")
    assert choose() == ["fp32"]


def test_requested_bf16_needs_units(units: Callable[..., None], choose: Callable[..., list[str]]) -> None:
    units("avx512_bf16")
    assert choose("bf16") == ["bf16"]
    units()
    with pytest.raises(runtime.ProviderError, match="no units for bfloat16"):
        choose("bf16")


def test_fp32_and_other_providers_are_not_changed(units: Callable[..., None], choose: Callable[..., list[str]]) -> None:
    units("amx_bf16")
    assert choose("fp32") == ["fp32"]
    assert choose(provider="cpu") == ["another provider"]
    assert choose(provider="auto") == ["another provider"], "the installed package has no OpenVINO"


def test_units_are_read_from_the_flags_of_linux(tmp_path: Path) -> None:
    cpu_info = tmp_path / "cpuinfo"
    assert bf16_units(cpu_info) == set()
    cpu_info.write_text("processor : 0\nflags : fpu amx_bf16 amx_tile\n\nprocessor : 1\nflags : fpu\n")
    assert bf16_units(cpu_info) == {"amx_bf16"}


def test_bfloat16_on_arm_needs_golden_vectors_that_pass(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "has_arm_bf16", lambda: True)
    options, run = runtime.CpuOptions(arm_bf16=True), Session.run
    assert runtime.load(exported, provider_options=options).provider_options == options
    tolerance = runtime.verify(exported, provider_options=options).towers["image"].tolerance
    assert tolerance.min_cosine == 0.9999, "that of bfloat16, not of the export"
    monkeypatch.setattr(Session, "run", lambda *given, **named: run(*given, **named)[:, ::-1])
    assert runtime.load(exported, provider="cpu")
    with pytest.raises(
        runtime.ProviderError, match=r"with arm_bf16, the golden vectors are out of .*image .*leave the"
    ):
        runtime.load(exported, provider_options=options)
