"""Test the command line against servers on the loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from benchmarks.cli import main
from benchmarks.serve import cli, targets
from benchmarks.serve.cli import public_command
from benchmarks.serve.measure import Measurement
from benchmarks.serve.options import build_parser
from benchmarks.serve.process import StartedServer
from benchmarks.serve.workloads import ServeWorkload
from runtime import console
from tests.benchmarks.exit_codes import run_command
from tests.benchmarks.serve.toy_server import ToyServer, toy_server, vector_of

FAST = ("--seconds", "0.05", "--warm-up", "0.01", "--rounds", "2", "--clients", "2")


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with toy_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, own: object, scratch: Path) -> ServeWorkload:
        return ServeWorkload(name=name, source="made up", items=tuple(f"{name} text {n}" for n in range(16)))

    monkeypatch.setattr(cli, "make_workload", make)


def results_of(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_servers_take_turns_at_every_load(
    server: ToyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", f"one={server.url}", f"two={server.url}/embed", "-o", str(tmp_path), *FAST]
    words += ["--batch-sizes", "1", "4", "--rate", "40", "80", "--refinements", "0"]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / name) for name in ("results.json", "report.html", "report.md")
    ]
    results = results_of(tmp_path)
    assert results["complete"]
    assert [(each["interface"], each["model"], each["dimensions"]) for each in results["servers"]] == [
        ("openai", "toy", 4),
        ("tei", "", 4),
    ]
    levels = [
        (load["workload"], load["items"], load["clients"], load["rate"], load["round"]) for load in results["loads"]
    ]
    assert levels[::2] == levels[1::2]  # both servers, one after the other
    assert len(set(levels[:2])) == 1
    assert len(set(levels)) == 2 * (1 + 2) * 2  # sizes, levels, rounds
    assert all(load["latency_s"] and not load["failures"] for load in results["loads"])
    assert {load["max_difference"] for load in results["loads"]} == {0.0}


def test_rates_are_found_from_the_closed_loops(server: ToyServer, tmp_path: Path) -> None:
    words = ["--refinements", "1", "--rounds", "1", "--seconds", "0.5"]
    main(["serve", server.url, "-o", str(tmp_path), *FAST, *words])
    rates = [load["rate"] for load in results_of(tmp_path)["loads"] if load["rate"]]
    assert len(set(rates)) == 9
    assert rates[7] == pytest.approx(11 * rates[0], rel=0.2)  # from 10% to 110% of the best closed loop


def test_none_leaves_the_open_loops_out(server: ToyServer, tmp_path: Path) -> None:
    assert main(["serve", server.url, "-o", str(tmp_path), *FAST, "--rate", "none"]) == 0
    assert {load["rate"] for load in results_of(tmp_path)["loads"]} == {None}


def test_an_interruption_keeps_what_was_measured(
    server: ToyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = Measurement.measure, []

    def interrupt(self: Any, workload: ServeWorkload) -> None:
        calls.append(workload)
        if len(calls) == 2:
            raise KeyboardInterrupt
        measure(self, workload)

    monkeypatch.setattr(Measurement, "measure", interrupt)
    words = ["serve", server.url, "-o", str(tmp_path), *FAST, "--rate", "none", "--workloads", "short", "long"]
    assert main(words) == console.INTERRUPTED
    results = results_of(tmp_path)
    assert (results["complete"], len(results["loads"])) == (False, 2)
    assert "stopped before everything was measured" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("word", "items"),
    [("image=a=b", ("image", Path("a=b"))), ("data/day=1/q.txt", ("text", Path("data/day=1/q.txt")))],
)
def test_a_path_of_items_may_hold_an_equals_sign(word: str, items: tuple[str, Path]) -> None:
    assert build_parser().parse_args(["a", "-o", "b", "--items", word]).items == items


def test_keys_are_sent_and_not_reported(server: ToyServer, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("top-secret\n")
    words = ["serve", server.url, "-o", str(tmp_path / "report"), *FAST, "--rate", "none"]
    assert main([*words, "--api-key-file", str(key), "--header", "X-Tenant: tenant-7"]) == 0
    assert server.headers[0]["Authorization"] == "Bearer top-secret"
    assert server.headers[0]["X-Tenant"] == "tenant-7"
    for path in (tmp_path / "report").iterdir():
        assert "top-secret" not in path.read_text()
        assert "tenant-7" not in path.read_text()
    assert public_command(["u", "--header=a: b", "--head", "c: d"]).endswith("serve u '--header=***' --head '***'")
    command = public_command(["--server-options", "--threads 1 --api-key 'my secret' --api-key=other --api-key-file f"])
    assert command.endswith("'--threads 1 --api-key *** --api-key=*** --api-key-file f'")


def test_vectors_can_be_compared_with_those_of_an_artifact(
    server: ToyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Model:
        def __enter__(self) -> Model:
            return self

        def __exit__(self, *_: object) -> None: ...

        def embed(self, items: list[str], tower: str) -> Any:
            assert tower == "text"
            vectors = np.array([vector_of(item) for item in items], dtype=np.float32)
            return np.concatenate([-vectors[:1], vectors[1:]])

    def load(artifact: Path, provider: str, variant: str) -> Model:
        assert (provider, variant) == ("cpu", "fp32")  # auto could choose another variant than that of the server
        return Model()

    monkeypatch.setattr(runtime, "load", load)
    monkeypatch.setattr(cli, "read_manifest", lambda artifact: type("Manifest", (), {"name": "toy"}))
    words = ["serve", server.url, "-o", str(tmp_path), *FAST, "--rate", "none", "--verify", str(tmp_path)]
    assert main(words) == console.FAILURE
    error = capsys.readouterr().err.replace("http://", "")
    assert "error: Other vectors than those of toy: 127.0.0.1" in error
    assert "and a limit of 0.999. Use a lower --min-cosine for an int8 server." in error
    assert error.endswith(f"See the loads and the failures in {tmp_path / 'report.html'}\n")
    assert min(load["min_cosine"] for load in results_of(tmp_path)["loads"]) == pytest.approx(-1)
    assert "Other vectors than those of toy" in (tmp_path / "report.md").read_text()
    assert main([*words, "--force", "--min-cosine", "-1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "auto", "5"], "give auto or none alone"),
        (["--rate", "0.3", "0.15"], "less than one request in --seconds 5; raise --seconds to 7"),
        (["--min-cosine", "0.9"], "give --verify ARTIFACT too"),
        (["--min-cosine", "1.1", "--verify", "x"], "from -1 to 1"),
        (["--rounds", "0"], "from 1 up"),
        (["--clients", "0"], "from 1 up"),
        (["--rate", "inf"], "above 0"),
        (["--warm-up", "nan"], "from 0 up"),
        (["--refinements", "-1"], "from 0 up"),
        (["--seconds", "inf"], "above 0"),
        (["--max-p99-ms", "0"], "above 0"),
        (["--max-p99-ms", "9", "--rate", "none"], "for open loops"),
        (["--refinements", "2", "--rate", "none"], "for open loops"),
        (["--prices", "prices.toml", "--rate", "none"], "for open loops"),
        (["--pid", "x"], "must be a number"),
        (["--pid", "4194999"], "no process on this machine"),
        (["--pid", "0"], "no process on this machine"),
        (["--pid", "typo=1"], "names none of the servers"),
        (["--pid", "1", "--pid", "2"], "two values"),
        (["--model", "nosuch=zzz"], "names none of the servers"),
        (["--model", "a", "--interface", "tei"], "no server with OpenAI's interface"),
        (["--server-options", "--threads 1"], "for artifacts and --embed"),
        (["--items", "own.txt", "--workloads", "short"], "add own to --workloads"),
        (["--items", "photos=my-photos"], "KIND=PATH with one of the kinds text, image, mesh"),
        (["--header", "no colon"], "NAME:VALUE"),
        (["--header", "Content-type: text/plain"], "sends itself"),
        (["--header", "A: 1", "--header", "a: 2"], "given twice"),
        (["--api-key-file", "nowhere"], "holds no key"),
        (["--interface", "tei", "--encoding", "base64"], "not possible"),
    ],
)
def test_wrong_options_are_refused(
    server: ToyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run_command("serve", server.url, "-o", str(tmp_path / "report"), *words) == console.WRONG_USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pid", "1"], "could be of any server; write it with one= or two="),
        (["--model", "two=zzz"], "no server with OpenAI's interface"),
        (["--model", "a", "--model", "one=b"], "no server with OpenAI's interface"),
    ],
)
def test_values_that_fit_no_server_are_refused(
    server: ToyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    servers = [f"one={server.url}", f"two={server.url}/embed"]
    assert main(["serve", *servers, "-o", str(tmp_path / "report"), *words]) == console.WRONG_USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_models_are_of_the_servers_that_they_name(server: ToyServer, tmp_path: Path) -> None:
    servers = [f"one={server.url}", f"two={server.url}"]
    words = ["--model", "two=b=c", "--model", "a", "--rate", "none"]
    assert main(["serve", *servers, "-o", str(tmp_path), *FAST, *words]) == 0
    assert [each["model"] for each in results_of(tmp_path)["servers"]] == ["a", "b=c"]


def test_a_process_id_of_a_server_that_the_benchmark_starts_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", str(tmp_path / "artifact"), "-o", str(tmp_path / "report"), "--pid", str(os.getpid())]
    assert main(words) == console.WRONG_USAGE
    assert "which the benchmark starts" in capsys.readouterr().err


def test_results_are_not_replaced_without_force(
    server: ToyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text("{}")
    assert main(["serve", server.url, "-o", str(tmp_path)]) == console.FAILURE
    assert "--force" in capsys.readouterr().err


def test_a_server_without_models_is_refused(
    server: ToyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = []
    assert main(["serve", server.url, "-o", str(tmp_path)]) == console.FAILURE
    assert "name one with --model" in capsys.readouterr().err


def test_servers_need_different_names(server: ToyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", f"a={server.url}", f"a={server.url}", "-o", str(tmp_path)]) == console.WRONG_USAGE
    assert "different names" in capsys.readouterr().err


def test_a_server_that_the_benchmark_starts_is_watched(exported_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None: ...

    @contextmanager
    def start(command: list[str]) -> Iterator[StartedServer]:
        yield StartedServer(url="http://127.0.0.1:1", pid=1, check=check)

    monkeypatch.setattr(targets, "start_server", start)
    options = build_parser().parse_args([str(exported_text), "-o", "r", "--interface", "tei"])
    (target,) = targets.read_targets(options)
    with targets.open_server(target, options) as server:
        assert server.check is check
