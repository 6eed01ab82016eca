"""``tune`` finds and stores the fastest setting, and ``load`` uses it. Speeds are faked where their order matters."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx
import pytest
from onnx import numpy_helper

import runtime
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.artifact.reader import read_manifest, record_file
from runtime.cli.main import main
from runtime.errors import InferenceError, OutputError, TuningError, UsageError
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.loading import tuning_store as memory
from runtime.loading.tuning_store import read_tuning, write_tuning
from runtime.machine import cpu, cuda_driver
from runtime.tune.candidate import TuneCandidate, TuneSetting
from runtime.tune.measure import TuneOptions, find_tower, measure
from runtime.tune.report import (
    CaseResult,
    RefusedCase,
    TuneReport,
    explain_no_winner,
    make_tuning,
    pareto_front,
    render_json,
    render_text,
    summarize,
)
from runtime.tune.worker import open_model, take_turn
from tests.runtime.session.variant_samples import make_variant

Speed = Callable[[TuneSetting, int], float]
SETTING = TuneSetting(provider="cpu", variant="fp32", threads=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuned"


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("runtime.loading.tuning_store", "runtime.tune.measure"):
        monkeypatch.setattr(f"{module}.available_threads", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speed], None]:
    """Replace candidates by ones without a process and with faked speed; their vectors stay real."""

    def pace(seconds: Speed) -> None:
        class Paced:
            def __init__(self, folder: Path, tower: Any, setting: TuneSetting) -> None:
                self._folder, self._tower, self._setting = folder, tower, setting

            def load(self) -> float:
                _, cosine = open_model(self._folder, self._tower, self._setting)
                return cosine

            def take_turn(self, batch_size: int) -> list[float]:
                return [seconds(self._setting, batch_size)] * 4

            def close(self) -> None:
                pass

        monkeypatch.setitem(cast("dict[str, Any]", measure.__kwdefaults__), "start", Paced)

    return pace


@pytest.fixture
def varied(artifact: Path, edit_manifest: Callable[[Callable[[dict[str, Any]], None]], Path]) -> Path:
    """An artifact with a correct variant, ``optimized``, and a wrong one, ``int8``."""
    shutil.copy(artifact / "image.onnx", artifact / "image.optimized.onnx")
    graph = onnx.load(artifact / "image.onnx")
    largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest)[::-1].copy(), largest.name))
    onnx.save(graph, artifact / "image.int8.onnx")

    def add(document: dict[str, Any]) -> None:
        for name in ("optimized", "int8"):
            variant = make_variant(name, "cpu")
            document["towers"]["image"]["variants"][name] = dataclasses.asdict(variant)
            document["files"][variant.graph] = dataclasses.asdict(record_file(artifact / variant.graph))

    return edit_manifest(add)


def case(p50_ms: float, items_per_s: float, *, p95_ms: float | None = None, batch_size: int = 1) -> CaseResult:
    return CaseResult(
        setting=SETTING,
        batch_size=batch_size,
        p50_ms=p50_ms,
        p95_ms=p95_ms or p50_ms,
        items_per_s=items_per_s,
        min_cosine=1.0,
        calls=20,
        spread=0.0,
    )


def report(*cases: CaseResult, max_latency_ms: float | None = None) -> TuneReport:
    return TuneReport(tower="image", inputs="", max_latency_ms=max_latency_ms, measured=cases, refused=())


@pytest.mark.parametrize(("spread", "wins"), [(0.0, True), (0.05, True), (0.47, False)])
def test_what_cannot_be_told_apart_from_the_default_does_not_replace_it(spread: float, wins: bool) -> None:
    default, other = case(10, 100), replace(case(9, 110), setting=replace(SETTING, variant="fp16"), spread=spread)
    slower = replace(default, batch_size=8, items_per_s=50)
    found = replace(report(other, default, slower), default=SETTING)
    assert found.winner is (other if wins else default)
    assert ("is not faster than the default" in render_text(found)) is not wins
    assert replace(found, default=None).winner is other


def keep(folder: Path, **changes: Any) -> Path:
    """Store a tuning as if it had been found here, and return its file."""
    manifest = read_manifest(folder)
    tower = next(iter(manifest.towers))
    tuning = make_tuning(manifest, tower, case(8.0, 100.0, batch_size=48), None)
    return write_tuning(manifest, replace(tuning, **changes))


def is_tuned(model: runtime.Embedder) -> bool:
    return "tuned on this machine" in model.provider_reason or "tuned on this machine" in model.variant_reason


def budget(model: runtime.Embedder, tower: Any) -> int:
    return cast("Pipeline", model.backend).towers[tower].batch_sizes.budget


def test_the_front_holds_the_cases_that_no_other_beats() -> None:
    fast, even, slow = case(1, 10), case(5, 50), case(9, 90)
    beaten_by_even, slower_at_no_gain, twin = case(6, 40), case(10, 90), case(1, 10)
    cases = [fast, beaten_by_even, even, slower_at_no_gain, slow, twin]
    assert pareto_front(cases) == [fast, even, slow, twin]
    assert pareto_front([]) == []


def test_the_winner_has_the_highest_throughput_within_the_bound() -> None:
    quick, jumpy, slow = case(1, 10), case(2, 50, p95_ms=30), case(20, 90)
    assert report(quick, jumpy, slow).winner == slow
    assert report(quick, jumpy, slow, max_latency_ms=20).winner == slow
    assert report(quick, jumpy, slow, max_latency_ms=19.9).winner == quick
    assert report(case(3, 90), case(2, 90)).winner == case(2, 90)
    none = report(jumpy, slow, max_latency_ms=19)
    assert none.winner is None
    message = r"no case has a p95 within 19 ms; the fastest is cpu, fp32, 1 thread, batches of 1 with 20 ms"
    with pytest.raises(TuningError, match=message):
        raise explain_no_winner(none)
    with pytest.raises(TuningError, match="nothing can be tuned: cuda: no driver"):
        raise explain_no_winner(replace(none, measured=(), refused=(RefusedCase(name="cuda", reason="no driver"),)))


def test_times_are_of_all_calls_and_throughput_of_whole_turns() -> None:
    figures = summarize(SETTING, 8, [[0.001, 0.003], [0.002, 0.002], [0.1, 0.1]], 0.9999)
    assert figures.calls == 6
    assert figures.p50_ms == pytest.approx(2.5)
    assert figures.items_per_s == pytest.approx(4000)
    assert 90 < figures.p95_ms <= 100
    assert figures.spread == pytest.approx((4000 - 2040) / 4000)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(("batch_size", "calls"), [(1, 4), (2, 4), (3, 4), (4, 4), (8, 4)])
def test_every_item_is_embedded_equally_often_in_a_turn(batch_size: int, calls: int, lanes: int) -> None:
    embedded: list[str] = []
    sizes = set()

    def embed(items: list[str], *, tower: str, batch_size: int) -> None:
        embedded.extend(items)
        sizes.add((len(items), batch_size, tower))

    model = cast("runtime.Embedder", SimpleNamespace(embed=embed, towers=("text",), concurrent_batches=lanes))
    ticks = iter(range(1000))
    seconds = take_turn(model, ["a", "b", "c", "d"], batch_size, clock=lambda: next(ticks) / 1000)
    assert seconds == pytest.approx([0.001] * calls)
    assert len({embedded.count(item) for item in "abcd"}) == 1
    assert sizes == {(batch_size * lanes, batch_size, "text")}


def test_a_turn_of_slow_calls_has_few_of_them() -> None:
    model = cast(
        "runtime.Embedder", SimpleNamespace(embed=lambda *_, **__: None, towers=("text",), concurrent_batches=1)
    )
    ticks = iter(range(1000))
    assert take_turn(model, ["a"], 1, clock=lambda: next(ticks)) == [1]


def test_the_fastest_case_is_stored_and_used_by_load_until_it_is_forgotten(
    varied: Path,
    paced: Callable[[Speed], None],
    capsys: pytest.CaptureFixture[str],
    cache: Path,
    photo_paths: list[Path],
) -> None:
    best = (TuneSetting(provider="cpu", variant="optimized", threads=1, concurrent_batches=2), 48)
    paced(lambda *each: 0.001 if each == best else 0.1 * each[1])
    assert main(["tune", str(varied), "--batch-sizes", "2,48", "--threads", "1,2", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "winner: cpu, optimized, 2 x 1 thread, batches of 48" in out
    assert "4 golden items of 512x512, 300x451" in out
    assert len([line for line in out.splitlines() if line.startswith("cpu ")]) == 8
    assert [path.suffix for path in cache.iterdir()] == [".json"]

    model = runtime.load(varied)
    assert (model.provider, model.variant, budget(model, "image")) == ("cpu", "optimized", 48)
    assert (model.threads, model.concurrent_batches) == (2, 2)
    for reason in (model.provider_reason, model.variant_reason):
        assert reason.startswith("tuned on this machine on 20")
        assert reason.endswith(": cpu, optimized, 2 x 1 thread, batches of 48")
    assert cast("Pipeline", model.backend).towers["image"].batch_sizes.window >= 48
    assert model.embed(photo_paths).shape == (6, 12)

    assert main(["info", str(varied)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tuned")]
    assert line.startswith("tuned         image: 20")
    assert line.endswith(": cpu, optimized, 2 x 1 thread, batches of 48, 96000 items/s")
    assert main(["tune", str(varied), "--forget"]) == 0
    assert capsys.readouterr().out == "forgotten: image\n"
    assert main(["tune", str(varied), "--forget"]) == 0
    assert "nothing to forget" in capsys.readouterr().out
    assert not is_tuned(runtime.load(varied))
    assert main(["info", str(varied)]) == 0
    assert "tuned         image: not on this machine" in capsys.readouterr().out


def test_a_wrong_variant_is_refused_and_cannot_win(
    varied: Path, paced: Callable[[Speed], None], capsys: pytest.CaptureFixture[str]
) -> None:
    paced(lambda setting, size: 0.0001 if setting.variant == "int8" else 0.1)
    assert main(["tune", str(varied), "--batch-sizes", "1", "--threads", "1", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "refused: cpu, int8, 2 x 1 thread: its min cosine to the golden vectors is 0." in out
    assert "winner: cpu, int8" not in out
    assert runtime.load(varied).variant != "int8"
    assert main(["tune", str(varied), "--rounds", "1", "--threads", "1", "--min-cosine", "0"]) == 0
    assert "winner: cpu, int8" in capsys.readouterr().out, "the floor is what kept it from winning"


def test_variants_for_another_machine_are_not_measured(
    varied: Path, edit_manifest: Callable[..., Path], paced: Callable[[Speed], None]
) -> None:
    def narrow(document: dict[str, Any]) -> None:
        document["towers"]["image"]["variants"]["optimized"]["cpu_features"] = ["no_such_flag"]
        document["towers"]["image"]["variants"]["int8"]["providers"] = ["cuda"]

    paced(lambda setting, size: 1.0)
    found = measure(edit_manifest(narrow), TuneOptions(batch_sizes=(1,), threads=(1,), rounds=1))
    assert [case.setting.variant for case in found.measured] == ["fp32"]
    assert [refused.name for refused in found.refused] == ["cpu, optimized", "cpu, int8"]
    assert "no_such_flag" in found.refused[0].reason


def test_without_a_winner_nothing_is_stored_and_an_older_tuning_is_kept(
    exported: Path, paced: Callable[[Speed], None], capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    paced(lambda setting, size: 0.05 / setting.threads)
    words = ["tune", str(exported), "--rounds", "1", "--max-latency-ms", "20"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no case has a p95 within 20 ms; the fastest is cpu, fp32, 2 threads, batches of")
    assert not list(cache.iterdir())
    place = keep(exported)
    before = place.read_bytes()
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["winner"] is None
    assert [*cache.iterdir()] == [place]
    assert place.read_bytes() == before


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
    assert is_tuned(model)
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
) -> None:
    keep(exported)
    assert is_tuned(runtime.load(artifact)), "it is the same artifact in another folder"
    assert not is_tuned(runtime.load(exported_text))
    other = edit_manifest(lambda document: document.update(name="other"))
    assert not is_tuned(runtime.load(other))
    strangers: list[tuple[Any, str, Any]] = [
        (memory, "installed_packages", lambda: {"onnxruntime": "1.0.0"}),
        (memory, "installed_packages", lambda: {"onnxruntime-gpu": "1.31.1"}),
        (cpu, "cpu_flags", lambda *_: frozenset({"fpu"})),
        (cpu, "cpu_model", lambda *_: "another"),
        (memory, "available_threads", lambda: 1),
    ]
    for module, name, value in strangers:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert not is_tuned(runtime.load(exported)), name
    assert is_tuned(runtime.load(exported))


def test_another_gpu_is_another_machine(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(exported)
    monkeypatch.setattr(memory, "installed_packages", lambda: {"onnxruntime-gpu": "1.31.1"})
    monkeypatch.setattr(memory, "gpu_names", lambda: ("NVIDIA H200",))
    keep(exported)
    assert read_tuning(manifest, "image") is not None
    monkeypatch.setattr(memory, "gpu_names", tuple)
    assert read_tuning(manifest, "image") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"schema_version": 2', '"schema_version": 1'),
        lambda text: text.replace('"variant": "fp32"', '"variant": "fp64"'),
        lambda text: text.replace('"batch_size": 48', '"batch_size": 0'),
        lambda text: text.replace('"threads": 1', '"threads": 99'),
        lambda text: text.replace('"p50_ms": 8.0', '"p50_ms": NaN'),
        lambda text: text.replace('"tower": "image"', '"tower": "text"'),
    ],
    ids=["half", "empty", "deep", "schema", "variant", "batch", "threads", "nan", "tower"],
)
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(exported: Path, damage: Callable[[str], str]) -> None:
    place = keep(exported)
    whole = place.read_text()
    assert damage(whole) != whole
    place.write_text(damage(whole))
    assert not is_tuned(runtime.load(exported))
    keep(exported)
    assert is_tuned(runtime.load(exported))


def test_a_tuned_provider_that_no_longer_works_is_skipped_with_a_warning(
    exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(exported, provider="cuda")
    model = runtime.load(exported)
    assert (model.provider, is_tuned(model)) == ("cpu", False)
    assert "cuda, fp32, 1 thread, batches of 48): the provider cuda is not in" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-sizes", "0,8"], "batch_sizes are [0], they must be numbers from 1 to 4096"),
        (["--batch-sizes", "9999"], "batch_sizes are [9999]"),
        (["--threads", "1,3"], "threads are [3], they must be numbers from 1 to 2"),
        (["--max-latency-ms", "0"], "max_latency_ms is 0.0, it must be above 0"),
        (["--max-latency-ms", "nan"], "max_latency_ms is nan"),
        (["--min-cosine", "1.5"], "min_cosine is 1.5"),
        (["--rounds", "0"], "rounds is 0"),
        (["--tower", "text"], "there is no text tower; the artifact has image"),
    ],
    ids=str,
)
def test_invalid_values_are_wrong_usage(
    exported: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(exported), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--batch-sizes", "1,,8"], ["--threads", "all"], ["--provider", "tpu"]], ids=str)
def test_unparsable_words_are_wrong_usage(exported: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tune", str(exported), *words])
    assert caught.value.code == 2


def test_one_of_two_towers_must_be_named() -> None:
    both = cast("Any", SimpleNamespace(towers={"text": None, "image": None}))
    assert find_tower(both, "image") == "image"
    with pytest.raises(UsageError, match="has text and image towers; name one with --tower"):
        find_tower(both, None)


def test_errors_come_before_anything_is_measured(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(TuneCandidate, "__init__", None)  # would be called if anything were measured
    assert main(["tune", str(artifact), "--provider", "cuda"]) == 1
    assert "the provider cuda is not in the installed package" in capsys.readouterr().err
    with (artifact / "image.onnx").open("ab") as graph:
        graph.write(b"!")
    assert main(["tune", str(artifact)]) == 1
    assert "image.onnx has changed since export" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "file"))
    assert main(["tune", str(artifact)]) == 1
    assert "cannot write this user's cache folder; set EMBEDDING" in capsys.readouterr().err


def test_a_full_disk_leaves_no_partial_file(exported: Path, small_disk: Any, cache: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), small_disk():
        keep(exported, date="x" * 5000)
    assert not list(cache.iterdir())


@pytest.mark.process
def test_real_processes_are_measured(exported_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TuneOptions(batch_sizes=(1, 6), threads=(1,), rounds=2)
    found = measure(exported_text, options)
    assert {(case.setting.threads, case.batch_size) for case in found.measured} == {(1, 1), (1, 6)}
    assert all(0 < case.p50_ms <= case.p95_ms and case.min_cosine > 0.999999 for case in found.measured)
    assert all(case.calls >= 8 for case in found.measured)
    assert found.winner is not None
    assert not found.refused
    assert "golden items of" in found.inputs
    assert "tokens" in found.inputs


@pytest.mark.process
def test_a_worker_that_dies_costs_only_its_own_cases(exported_text: Path) -> None:
    class KilledCandidate(TuneCandidate):
        def load(self) -> float:
            cosine = super().load()
            os.kill(self.pid, signal.SIGKILL)
            return cosine

    def start(folder: Path, tower: Any, setting: TuneSetting) -> TuneCandidate:
        return (TuneCandidate if setting.threads == 1 else KilledCandidate)(folder, tower, setting)

    found = measure(exported_text, TuneOptions(batch_sizes=(1, 2), threads=(1, 2), rounds=1), start=start)
    assert {(case.setting.threads, case.batch_size) for case in found.measured} == {(1, 1), (1, 2)}
    assert [refused.name for refused in found.refused] == [
        f"cpu, fp32, 2 threads, batches of {size}" for size in (1, 2)
    ]
    assert "the child process died (exit code -9)" in found.refused[0].reason


def test_a_batch_that_fails_is_refused_and_smaller_ones_continue(
    exported: Path, paced: Callable[[Speed], None]
) -> None:
    def seconds(setting: TuneSetting, size: int) -> float:
        if size == 8:
            raise InferenceError("too little memory")
        return 0.1

    paced(seconds)
    found = measure(exported, TuneOptions(batch_sizes=(1, 8), threads=(1,), rounds=3))
    assert [case.batch_size for case in found.measured] == [1]
    assert found.refused == (RefusedCase(name="cpu, fp32, 2 x 1 thread, batches of 8", reason="too little memory"),)


def test_the_table_has_no_exponents_and_warns_of_noise() -> None:
    found = report(replace(case(1234.5, 0.051234, batch_size=8), spread=0.5), case(1, 0.01))
    out = render_text(found)
    assert "1230" in out
    assert "0.0512" in out
    assert "e+" not in out
    assert "the turns of the winner differ by 50%" in out
    assert "the largest batch size wins" in out
    assert "differ by" not in render_text(report(case(1, 1)))
    document = json.loads(render_json(found))
    assert (document["winner"]["batch_size"], len(document["front"])) == (8, 2)


def test_cases_take_turns(exported: Path, paced: Callable[[Speed], None]) -> None:
    order: list[int] = []

    def seconds(setting: TuneSetting, size: int) -> float:
        order.append(size)
        return 1.0

    paced(seconds)
    measure(exported, TuneOptions(batch_sizes=(1, 2), threads=(1,), rounds=2))
    assert order == [1, 2, 2, 1]


@pytest.mark.process
def test_ctrl_c_leaves_neither_a_process_nor_a_file(exported_text: Path, cache: Path) -> None:
    words = ["tune", str(exported_text), "--rounds", "1000000", "--batch-sizes", "1", "--threads", "1"]
    tuning = subprocess.Popen(
        [sys.executable, "-m", "runtime", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    workers = _await_workers(tuning.pid)
    os.killpg(tuning.pid, signal.SIGINT)  # as a terminal does
    _, errors = tuning.communicate(timeout=60)
    assert (tuning.returncode, errors) == (130, "interrupted\n")
    deadline = time.monotonic() + 60  # a worker that was just starting ends by itself when its standard input closes
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)
    assert not list(cache.glob("*"))


@pytest.mark.process
def test_a_worker_without_a_parent_ends_silently(exported_text: Path) -> None:
    words = ["runtime.tune.worker", str(exported_text), "text", "cpu", "fp32", "1", "1"]
    worker = subprocess.Popen(
        [sys.executable, "-m", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert worker.stdout is not None
    worker.stdout.close()
    worker.stdout = None
    assert worker.communicate(timeout=60)[1] == b""


def _await_workers(parent: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == parent]
        if found:
            return found
    raise AssertionError("no worker was started")


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_gpus_and_the_cpu_are_named(tmp_path: Path) -> None:
    assert isinstance(cuda_driver.gpu_names(), tuple)
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor : 0\nmodel name\t: Some CPU @ 2.50GHz\nflags : fpu\n")
    assert cpu.cpu_model(cpu_info) == "Some CPU @ 2.50GHz"
