"""``tune`` finds and stores the fastest setting, and ``load`` uses it. Speeds are faked where their order matters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import runtime
from runtime.cli.main import main
from runtime.errors import UsageError
from runtime.inference.pipeline import Pipeline
from runtime.loading.tuning_store import TuneSetting
from runtime.session.provider_options import OPTIONS
from runtime.session.providers import PROVIDERS
from runtime.session.session import count_concurrent_batches
from runtime.tune import measure as measuring
from runtime.tune.candidate import TuneCandidate
from runtime.tune.measure import TuneOptions, measure
from tests.runtime.tune.samples import Speed, budget, is_tuned, keep


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


def test_a_variant_below_its_floor_is_refused_and_cannot_win(
    varied: Path,
    edit_manifest: Callable[..., Path],
    paced: Callable[[Speed], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lower(document: dict[str, Any]) -> None:
        document["towers"]["image"]["variants"]["int8"]["parity"]["floors"]["min_cosine"] = 0.01

    paced(lambda setting, size: 0.0001 if setting.variant == "int8" else 0.1)
    words = ["tune", str(varied), "--batch-sizes", "1", "--threads", "1", "--rounds", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"refused: cpu, int8, 2 x 1 thread: its min cosine to the golden vectors is 0\.\d+, below 0\.99;", out
    )
    assert "winner: cpu, int8" not in out
    assert runtime.load(varied).variant != "int8"
    assert main([*words, "--min-cosine", "0"]) == 0
    assert "winner: cpu, int8" in capsys.readouterr().out, "the floor is what kept it from winning"
    edit_manifest(lower)
    assert main(words) == 0
    assert "winner: cpu, int8" in capsys.readouterr().out, "it is the floor of this variant"


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


def test_an_artifact_that_changes_while_it_is_measured_is_not_tuned(
    varied: Path,
    edit_manifest: Callable[..., Path],
    paced: Callable[[Speed], None],
    capsys: pytest.CaptureFixture[str],
    cache: Path,
) -> None:
    def optimize(setting: TuneSetting, size: int) -> float:
        edit_manifest(lambda document: document["towers"]["image"]["variants"].pop("int8", None))
        return 1.0

    paced(optimize)
    assert main(["tune", str(varied), "--batch-sizes", "1", "--threads", "1", "--rounds", "1"]) == 1
    assert "changed while it was measured; run tune again; nothing is stored" in capsys.readouterr().err
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-sizes", "0,8"], "batch_sizes are [0], they must be whole numbers from 1 to 4096"),
        (["--batch-sizes", "9999"], "batch_sizes are [9999]"),
        (["--threads", "1,3"], "threads are [3], they must be whole numbers from 1 to 2"),
        (["--max-latency-ms", "0"], "max_latency_ms is 0.0, it must be above 0"),
        (["--max-latency-ms", "nan"], "max_latency_ms is nan"),
        (["--min-cosine", "1.5"], "min_cosine is 1.5"),
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


def test_no_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="rounds is 0, it must be 1 or more"):
        TuneOptions(rounds=0)


def test_cases_take_turns(exported: Path, paced: Callable[[Speed], None]) -> None:
    order: list[int] = []

    def seconds(setting: TuneSetting, size: int) -> float:
        order.append(size)
        return 1.0

    paced(seconds)
    measure(exported, TuneOptions(batch_sizes=(1, 2), threads=(1,), rounds=2))
    assert order == [1, 2, 2, 1]


@pytest.mark.parametrize("name", ["cuda", "openvino"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_default_of_other_providers_is_measured(
    name: str, threads: int, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "available_providers", lambda: [PROVIDERS[name]])
    monkeypatch.setattr(measuring, "find_provider_obstacle", lambda provider: None)
    monkeypatch.setattr(measuring, "available_threads", lambda: threads)
    candidate = SimpleNamespace(load=lambda: (1.0, 1.0), take_turn=lambda size: [1.0], close=lambda: None)
    options = TuneOptions(batch_sizes=(1,), rounds=1)
    found = measure(exported, options, start=lambda *_: cast("TuneCandidate", candidate))
    batches = count_concurrent_batches(PROVIDERS[name], OPTIONS[name](), threads)
    assert found.default in [case.setting for case in found.measured]
    assert found.default
    assert (found.default.total_threads, found.default.concurrent_batches) == (threads, batches)
