"""Test that less than float32 needs golden vectors that pass. The CPU provider stands in for the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import numpy as np
import pytest

import runtime
from runtime.array_types import Array, Feeds
from runtime.artifact.manifest import TowerName
from runtime.artifact.parity import variant_tolerance
from runtime.artifact.reader import read_manifest
from runtime.errors import OutOfMemoryError
from runtime.inference.pipeline import CheckPipeline, Pipeline
from runtime.loading import golden_check, reduced_precision
from runtime.loading.golden import TowerVerification, find_tolerance
from runtime.loading.reduced_precision import open_in_best_precision
from runtime.machine.cpu import bf16_units, is_faster_in_bf16
from runtime.session.provider_options import OpenVinoOptions, ProviderOptions, provider_of
from runtime.session.providers import PROVIDERS
from runtime.session.session import Session, SessionOptions
from runtime.session.variant_selection import GraphChoice
from tests.runtime.session.variant_samples import make_variant
from tests.runtime.toy_artifact import write_artifact

BF16, FP32 = OpenVinoOptions(dtype="bf16"), OpenVinoOptions(dtype="fp32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def change(*names: str) -> None:
        monkeypatch.setattr(reduced_precision, "bf16_units", lambda: set(names))
        monkeypatch.setattr(reduced_precision, "is_faster_in_bf16", lambda: bool(names))

    return change


Choose: TypeAlias = Callable[..., list[ProviderOptions | None]]


class Opened(list[ProviderOptions | None]):
    """The options with which an artifact was opened."""

    broken: tuple[str, ...] = ()

    def open(
        self, folder: Path, options: SessionOptions, check: CheckPipeline | None, tower: TowerName | None = None
    ) -> runtime.Embedder:
        """Open the artifact on the CPU provider, as if with ``options``."""
        self.append(options.provider_options)
        if options.provider in self.broken:
            raise runtime.ProviderError("it cannot load the graph")
        model = runtime.load(folder, provider="cpu", tower=tower, check_hashes=False)
        assert isinstance(model.backend, Pipeline)
        chosen = options.provider_options or model.provider_options
        model.provider_options, model.backend.info = chosen, replace(model.backend.info, provider_options=chosen)
        if check is not None:
            check(model.backend)
        return model


@pytest.fixture
def choose(exported: Path) -> Choose:
    """Return a function that opens an artifact, and returns the options that were tried."""

    def load(
        options: ProviderOptions | None = None,
        provider: str = "openvino",
        folder: Path = exported,
        tower: TowerName | None = None,
    ) -> list[ProviderOptions | None]:
        opened, manifest = Opened(), read_manifest(folder)
        given, towers = SessionOptions(provider=provider, provider_options=options), manifest.select_towers(tower)
        open_in_best_precision(
            folder, manifest, towers, given, lambda final, check: opened.open(folder, final, check, tower)
        )
        return opened

    return load


@pytest.fixture
def wrong_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *given, **named: run(*given, **named)[:, ::-1])


@pytest.fixture
def vectors_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Session, feeds: Feeds, stop: object, **options: object) -> Array:
        return np.full((len(feeds["pixels"]), 12), np.nan, np.float32)

    monkeypatch.setattr(Session, "run", run)


def test_bf16_is_chosen_and_stored_if_the_golden_vectors_pass(
    units: Callable[..., None], choose: Choose, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("amx_bf16")
    assert choose() == [BF16]
    assert len(list((cache / "verified").iterdir())) == 1
    monkeypatch.setattr(golden_check, "verify_towers", None)  # a second measurement would call it
    assert choose() == [BF16]


def test_fp32_is_chosen_and_logged_if_the_golden_vectors_fail(
    units: Callable[..., None], choose: Choose, wrong_vectors: None, caplog: pytest.LogCaptureFixture
) -> None:
    units("amx_bf16")
    with caplog.at_level(logging.WARNING, "runtime"):
        assert choose() == [BF16, FP32]
    assert "computes in float32: the golden vectors are not reproduced with dtype bf16 (image min cosine" in caplog.text
    assert choose() == [FP32], "the result is stored"
    assert "computes in float32: an earlier load did not reproduce the golden vectors in bfloat16" in caplog.text


def test_bf16_that_is_asked_for_and_passes_replaces_a_stored_miss(
    units: Callable[..., None], choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("amx_bf16")
    run = Session.run
    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", lambda *given, **named: run(*given, **named)[:, ::-1])
        assert choose() == [BF16, FP32]
    assert choose() == [FP32]
    assert choose(BF16) == [BF16]
    assert choose() == [BF16]


def test_a_damaged_file_leaves_no_verdict(
    units: Callable[..., None], choose: Choose, artifact: Path, wrong_vectors: None, cache: Path
) -> None:
    units("amx_bf16")
    with (artifact / "golden.npz").open("ab") as file:
        file.write(b"damage")
    with pytest.raises(runtime.IntegrityError, match="has changed since export"):
        choose(folder=artifact)
    assert not (cache / "verified").exists()


def test_a_graph_that_cannot_run_in_bf16_runs_in_fp32(
    units: Callable[..., None], choose: Choose, vectors_of_nan: None
) -> None:
    units("amx_bf16")
    assert choose() == [BF16, FP32]


def test_a_stored_result_is_for_the_same_towers(
    units: Callable[..., None], choose: Choose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("amx_bf16")
    folder = write_artifact(tmp_path / "toy", image=True)
    assert choose(folder=folder, tower="text") == [BF16]
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *given, **named: run(*given, **named) * [[1, -1, 1, -1]])
    assert choose(folder=folder, tower="image") == [BF16, FP32]
    assert choose(folder=folder, tower="text") == [BF16], "stored"


def test_auto_takes_another_provider_if_openvino_cannot_load_the_graph(
    units: Callable[..., None], choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    units()
    monkeypatch.setattr(Opened, "broken", ("openvino",))
    monkeypatch.setattr(
        reduced_precision, "expected_provider", lambda name: PROVIDERS["openvino" if name == "auto" else name]
    )
    assert choose(provider="auto") == [FP32, None], "the session then chooses"
    with pytest.raises(runtime.ProviderError, match="cannot load the graph"):
        choose()


def out_of_memory(model: runtime.Embedder, folder: Path) -> dict[TowerName, TowerVerification]:
    raise OutOfMemoryError("no memory")


def test_a_check_that_fails_for_another_reason_is_repeated(
    units: Callable[..., None], choose: Choose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    units("amx_bf16")
    with monkeypatch.context() as patch:
        patch.setattr(golden_check, "verify_towers", out_of_memory)
        assert choose() == [BF16, FP32]
        assert "cannot be compared in bfloat16 (no memory)" in caplog.text
        with pytest.raises(OutOfMemoryError):
            choose(BF16)
    assert choose() == [BF16]


def test_each_worker_is_handed_the_check(exported: Path, wrong_vectors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, given = cast("Pipeline", runtime.load(exported, provider="cpu").backend), list[Any]()

    def start(*arguments: Any) -> Pipeline:
        given.extend(arguments)
        return pipeline

    monkeypatch.setattr("runtime.loading.load.Workers", start)
    runtime.load(exported, provider="cpu", workers=2)
    pipeline.info = replace(pipeline.info, provider_options=runtime.CpuOptions(arm_bf16=True))
    with pytest.raises(runtime.ProviderError, match=r"with arm_bf16 \(image min cosine .*; leave the option out"):
        given[-1](pipeline)


@pytest.mark.parametrize("damaged", ["", "fai"])
def test_a_damaged_result_is_measured_again(
    damaged: str, units: Callable[..., None], choose: Choose, cache: Path
) -> None:
    units("amx_bf16")
    choose()
    (stored,) = (cache / "verified").iterdir()
    stored.write_text(damaged)
    assert choose() == [BF16]
    assert stored.read_text() == "passed"


def test_units_that_are_slower_than_float32_are_not_chosen(
    units: Callable[..., None], choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("avx512_bf16")
    monkeypatch.setattr(reduced_precision, "is_faster_in_bf16", lambda: False)
    assert choose() == [FP32]
    assert choose(BF16) == [BF16], "who asks for it gets it"


def test_int8_is_not_opened_in_bf16(
    units: Callable[..., None], choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    units("amx_bf16")
    int8 = GraphChoice(name="int8", graph="image.int8.onnx", reason="as requested")
    monkeypatch.setattr(reduced_precision, "choose_graph", lambda *_: int8)
    assert choose() == [FP32]


def test_cpus_without_units_use_fp32(units: Callable[..., None], choose: Choose) -> None:
    units()
    assert choose() == [FP32]


def test_requested_bf16_needs_units(units: Callable[..., None], choose: Choose) -> None:
    units("avx512_bf16")
    assert choose(BF16) == [BF16]
    units()
    with pytest.raises(runtime.ProviderError, match="no units for bfloat16"):
        choose(BF16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BF16, "with dtype bf16 .*use dtype fp32"),
        (runtime.CpuOptions(arm_bf16=True), "with arm_bf16 .*leave the option out"),
        (runtime.CudaOptions(tf32=True), "with tf32 .*leave the option out"),
        (runtime.TensorRtOptions(fp16=True), "with fp16 .*leave the option out"),
        (runtime.TensorRtOptions(), "in TensorRT's TF32 .*set NVIDIA_TF32_OVERRIDE=0 .*, or use the provider cuda"),
    ],
)
def test_less_than_float32_needs_golden_vectors_that_pass(
    units: Callable[..., None],
    choose: Choose,
    request: pytest.FixtureRequest,
    options: ProviderOptions,
    message: str,
) -> None:
    units("avx512_bf16")
    provider = provider_of(options)
    assert choose(options, provider) == [options]
    request.getfixturevalue("wrong_vectors")
    with pytest.raises(runtime.ProviderError, match=f"golden vectors are not reproduced {message}"):
        choose(options, provider)


@pytest.mark.parametrize("options", [FP32, runtime.CpuOptions(), runtime.CudaOptions()])
def test_float32_is_not_verified(choose: Choose, wrong_vectors: None, options: ProviderOptions) -> None:
    assert choose(options, provider_of(options)) == [options]


def test_fp32_and_other_providers_are_not_changed(units: Callable[..., None], choose: Choose) -> None:
    units("amx_bf16")
    assert choose(FP32) == [FP32]
    assert choose(provider="cpu") == [None]
    assert choose(provider="auto") == [None], "the installed package has no OpenVINO"


def test_units_are_read_from_the_flags_of_linux(tmp_path: Path) -> None:
    cpu_info = tmp_path / "cpuinfo"
    assert bf16_units(cpu_info) == set()
    cpu_info.write_text("processor : 0\nflags : fpu amx_bf16 amx_tile\n\nprocessor : 1\nflags : fpu\n")
    assert bf16_units(cpu_info) == {"amx_bf16"}


@pytest.mark.parametrize(
    ("vendor", "flags", "faster"),
    [
        ("GenuineIntel", "avx512_bf16 amx_bf16", True),
        ("GenuineIntel", "avx512_bf16", False),
        ("AuthenticAMD", "avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
    ],
)
def test_units_and_vendor_tell_whether_bfloat16_is_faster(
    tmp_path: Path, vendor: str, flags: str, faster: bool
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor : 0\nvendor_id\t: {vendor}\nflags : fpu {flags}\n")
    assert is_faster_in_bf16(cpu_info) is faster


def test_bfloat16_is_held_to_its_own_bounds(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.session.open_graph.check_arm_bf16", lambda _: None)
    options = runtime.CpuOptions(arm_bf16=True)
    assert runtime.load(exported, provider_options=options).provider_options == options
    tolerance = runtime.verify(exported, provider_options=options).towers["image"].tolerance
    assert tolerance.min_cosine == 0.9999, "that of bfloat16, not of the export"
    manifest, int8 = read_manifest(exported), make_variant("int8", "cpu")
    towers = {"image": replace(manifest.towers["image"], variants={"int8": int8})}
    model: Any = SimpleNamespace(
        manifest=SimpleNamespace(towers=towers), variants={"image": "int8"}, provider_options=options
    )
    assert find_tolerance(model, "image") == variant_tolerance(int8), "int8 keeps its own"


def test_nan_is_out_of_tolerance(units: Callable[..., None], choose: Choose, vectors_of_nan: None) -> None:
    units("avx512_bf16")
    with pytest.raises(runtime.ProviderError, match=r"with dtype bf16 \(.*NaN.*\); use dtype fp32"):
        choose(BF16)
