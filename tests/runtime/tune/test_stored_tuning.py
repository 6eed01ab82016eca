"""``load`` uses a stored tuning, and ignores those of other artifacts, machines and versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.artifact.reader import read_manifest
from runtime.errors import OutputError, ProviderError
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.loading import tuning_store as memory
from runtime.loading.tuning_store import read_tuning
from runtime.machine import cpu, cuda_driver
from runtime.session import machine_facts
from runtime.session.session import SessionOptions
from tests.runtime.tune.samples import budget, is_tuned, keep


@pytest.mark.parametrize(
    "arguments",
    [
        {"provider": "cpu"},
        {"variant": "fp32"},
        {"threads": 1},
        {"concurrent_batches": 1},
        {"provider_options": runtime.CpuOptions()},
        {"workers": 1},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_an_argument_of_the_caller_disables_the_tuning(exported: Path, arguments: dict[str, Any]) -> None:
    keep(exported)
    assert is_tuned(runtime.load(exported))
    assert is_tuned(runtime.load(exported, tower="image"))
    with runtime.load(exported, **arguments) as model:
        assert not is_tuned(model)
        if "workers" not in arguments:
            assert budget(model, "image") == DEFAULT_BATCH_SIZES["image", "cpu"].budget


def test_texts_keep_their_budget_of_tokens_and_meshes_count_points(exported_text: Path) -> None:
    keep(exported_text, batch_size=2)
    model = runtime.load(exported_text)
    assert model.variant_reason == "tuned on this machine on 2026-01-31: cpu, fp32, 1 thread, calls of 2 texts"
    assert budget(model, "text") == DEFAULT_BATCH_SIZES["text", "cpu"].budget
    clouds = PointCloudPreprocessing(num_points=2048, min_points=512, seed=0)
    assert DEFAULT_BATCH_SIZES["mesh", "cpu"].for_batch_size(20, clouds).budget == 20 * 2048
    assert DEFAULT_BATCH_SIZES["mesh", "cpu"].for_batch_size(20, clouds).window == 40


def test_a_tuning_of_another_artifact_or_machine_is_ignored(
    exported: Path,
    exported_text: Path,
    artifact: Path,
    edit_manifest: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keep(exported)
    assert is_tuned(runtime.load(artifact)), "it is the same artifact in another folder"
    assert not is_tuned(runtime.load(exported_text))
    other = edit_manifest(lambda document: document.update(name="other"))
    assert not is_tuned(runtime.load(other))
    assert not caplog.text
    strangers: list[tuple[Any, str, Any, str]] = [
        (machine_facts, "installed_packages", lambda: {"onnxruntime": "1.0.0"}, "onnxruntime is 1.0.0 and was "),
        (machine_facts, "installed_packages", lambda: {"onnxruntime-gpu": "1.31.1"}, "onnxruntime is absent and was "),
        (cpu, "cpu_flags", lambda *_: frozenset({"fpu"}), "is absent and was present"),
        (cpu, "cpu_model", lambda *_: "another", ""),
        (memory, "available_threads", lambda: 99, "threads is 99 and was "),
    ]
    for module, name, value, warning in strangers:
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert not is_tuned(runtime.load(exported)), name
        assert (warning in caplog.text) if warning else not caplog.text
    assert is_tuned(runtime.load(exported))


def test_settings_of_earlier_software_are_forgotten_too(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(exported)
    monkeypatch.setattr(memory, "available_threads", lambda: 99)
    assert memory.remove_tuning(read_manifest(exported), "image")
    assert not memory.remove_tuning(read_manifest(exported), "image")


def test_a_tuned_variant_is_verified_on_a_gpu(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, manifest: object, towers: object, options: SessionOptions) -> None:
        if "tuned" in options.variant_reason:
            raise ProviderError("the golden vectors are missed")

    keep(exported)
    monkeypatch.setattr("runtime.loading.load.verify_once_on_gpu", refuse)
    assert not is_tuned(runtime.load(exported))


def test_without_a_home_folder_there_is_nothing_to_forget(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(memory, "default_cache", fail)
    assert read_tuning(read_manifest(exported), "image") is None
    assert not memory.remove_tuning(read_manifest(exported), "image")


def test_batches_on_a_gpu_share_their_threads(exported: Path) -> None:
    keep(exported, provider="cuda", threads=2, concurrent_batches=2)
    tuning = read_tuning(read_manifest(exported), "image")
    assert tuning is not None
    assert "cuda, fp32, 2 threads for 2 batches, batches of 48" in str(tuning)
    options = tuning.session_options()
    assert (options.threads, options.concurrent_batches) == (2, 2)


def test_another_gpu_is_another_machine(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(exported)
    monkeypatch.setattr(memory, "installed_packages", lambda: {"onnxruntime-gpu": "1.31.1"})
    monkeypatch.setattr(memory, "gpu_names", lambda: ("NVIDIA H200",))
    monkeypatch.setattr(machine_facts, "gpu_software", lambda: {"driver": "580.95.05", "cudnn": "9.13.0"})
    keep(exported)
    assert read_tuning(manifest, "image") is not None
    with monkeypatch.context() as patch:
        patch.setattr(machine_facts, "gpu_software", lambda: {"driver": "580.95.05", "cudnn": "9.14.0"})
        assert read_tuning(manifest, "image") is None, "its software is another"
    monkeypatch.setattr(memory, "gpu_names", tuple)
    assert read_tuning(manifest, "image") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"schema_version": 3', '"schema_version": 2'),
        lambda text: text.replace('"variant": "fp32"', '"variant": "fp64"'),
        lambda text: text.replace('"batch_size": 48', '"batch_size": 0'),
        lambda text: text.replace('"threads": 1', '"threads": 99'),
        lambda text: text.replace('"p50_ms": 8.0', '"p50_ms": NaN'),
        lambda text: text.replace('"tower": "image"', '"tower": "text"'),
    ],
    ids=["half", "empty", "deep", "schema", "variant", "batch", "threads", "nan", "tower"],
)
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(
    exported: Path, damage: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    place = keep(exported)
    whole = place.read_text()
    assert damage(whole) != whole
    place.write_text(damage(whole))
    assert not is_tuned(runtime.load(exported))
    assert "ignoring stored tuning" in caplog.text
    keep(exported)
    assert is_tuned(runtime.load(exported))


def test_a_tuned_provider_that_no_longer_works_is_skipped_with_a_warning(
    exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(exported, provider="cuda")
    model = runtime.load(exported)
    assert (model.provider, is_tuned(model)) == ("cpu", False)
    assert "cuda, fp32, 1 thread, batches of 48): the provider cuda is not in" in caplog.text


def test_a_full_disk_leaves_no_partial_file(exported: Path, small_disk: Any, cache: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), small_disk():
        keep(exported, date="x" * 5000)
    assert not list(cache.iterdir())


def test_gpus_and_the_cpu_are_named(tmp_path: Path) -> None:
    assert isinstance(cuda_driver.gpu_names(), tuple)
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor : 0\nmodel name\t: Some CPU @ 2.50GHz\nflags : fpu\n")
    assert cpu.cpu_model(cpu_info) == "Some CPU @ 2.50GHz"
    cpu_info.write_text("processor : 0\nCPU implementer\t: 0x41\nCPU variant : 0x1\nCPU part\t: 0xd40\n")
    assert cpu.cpu_model(cpu_info) == "Arm Neoverse-V1"
    cpu_info.write_text("processor : 0\nCPU implementer\t: 0x48\nCPU part\t: 0xd40\n")
    assert cpu.cpu_model(cpu_info) == "Arm CPU (implementer 0x48, part 0xd40)"
