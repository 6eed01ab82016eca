from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.serve.interfaces import make_endpoint
from benchmarks.serve.process import StartedServer
from benchmarks.serve.soak import Pool, Soak, build_parser
from runtime import console
from runtime.errors import EmbeddingBackbonesError
from tests.benchmarks.exit_codes import run_command
from tests.benchmarks.serve.toy_server import ToyServer, toy_server, vector_of
from tests.ports import free_port
from tests.runtime.toy_artifact import write_artifact

TEXTS = [f"text {n}" for n in range(4)]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers share a port on Linux only")


def make_soak(url: str, *words: str, shift: float = 0.0, check: Callable[[], None] = lambda: None) -> Soak:
    options = build_parser().parse_args(["artifact", "--clients", "3", "--idle-seconds", "0", *words])
    pool = Pool(texts=TEXTS, vectors=np.array([vector_of(text) for text in TEXTS], np.float32) + np.float32(shift))
    return Soak(options, pool, make_endpoint(url), StartedServer(url=url, pid=os.getpid(), check=check))


def soak(server: ToyServer, *words: str, shift: float = 0.0) -> Soak:
    made = make_soak(server.url, *words, shift=shift)
    asyncio.run(made.run())
    return made


def test_right_answers_and_hang_ups_are_counted() -> None:
    with toy_server() as server:
        made = soak(server, "--requests", "20", "--hang-ups", "0.3")
    assert made.counts["answered"] + made.counts["hung up"] == 20
    assert made.counts["hung up"] > 0
    assert made.difference < 1e-6
    assert "wrong 0" in made.report()[-1]
    assert made.faults() == []


def test_wrong_vectors_are_found() -> None:
    with toy_server() as server:
        made = soak(server, "--requests", "5", shift=0.01)
        assert made.counts["wrong"] == made.counts["answered"] == 5
        server.extra = 1
        assert soak(server, "--requests", "5").faults() == ["wrong 5"]


def test_refusals_are_asked_again_until_the_time_is_over() -> None:
    with toy_server() as server:
        server.status = 429
        made = soak(server, "--requests", "3", "--timeout", "2")
    assert made.counts["refused"] >= 3
    assert made.faults() == ["given up 3", "no answer was checked; raise --requests or --seconds"]


def test_an_answer_that_never_comes_is_found() -> None:
    with toy_server() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        server.server_address = silent.getsockname()
        made = soak(server, "--requests", "2", "--timeout", "0.2")
    assert (made.counts["unanswered"], made.faults()[0]) == (2, "unanswered 2")


def test_an_answer_that_is_not_http_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.serve.toy_server._Handler.protocol_version", "GARBAGE/9")
    with toy_server() as server:
        assert soak(server, "--requests", "2").counts["wrong"] == 2


@pytest.mark.parametrize("load", [("--requests", "6"), ("--seconds", "0.3")], ids=["requests", "seconds"])
def test_requests_to_a_server_that_is_gone_are_given_up(load: tuple[str, str]) -> None:
    made = make_soak(f"http://127.0.0.1:{free_port()}", *load, "--timeout", "0.2")
    asyncio.run(asyncio.wait_for(made.run(), 30))
    assert made.counts["given up"] >= 3
    assert made.faults()[0].startswith("given up")


def test_a_server_that_is_gone_ends_the_load() -> None:
    def check() -> None:
        raise EmbeddingBackbonesError("the server ended")

    made = make_soak(f"http://127.0.0.1:{free_port()}", "--requests", "2000", check=check)
    with pytest.raises(EmbeddingBackbonesError, match="the server ended"):
        asyncio.run(asyncio.wait_for(made.run(), 30))
    assert made.counts["connection lost"] > 0


def test_a_server_without_workers_has_none_to_kill() -> None:
    with toy_server() as server, pytest.raises(EmbeddingBackbonesError, match="names no workers to kill"):
        soak(server, "--seconds", "60", "--kill-seconds", "0.01")


def test_a_load_that_ends_before_the_first_kill_is_a_failure() -> None:
    with toy_server() as server:
        (fault,) = soak(server, "--requests", "2", "--kill-seconds", "60").faults()
    assert fault.startswith("no worker was killed; lower --kill-seconds")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "from 1 up"),
        (["--kill-seconds", "0"], "above 0"),
        (["--timeout", "nan"], "above 0"),
        (["--tolerance", "inf"], "from 0 up"),
        (["--hang-ups", "1"], "from 0 to below 1"),
        (["--requests", "5", "--seconds", "5"], "not allowed with argument"),
        (["--server-options", "'"], "close the quotes"),
        (["--server-options", "--varient int8"], "--varient"),
    ],
)
def test_wrong_options_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("soak", "artifact", *words) == console.WRONG_USAGE
    assert message in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("ending", ["interrupt", "death"])
def test_the_counts_are_printed_when_the_load_ends_early(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(self: Soak, *words: object) -> None:
        self.counts["answered"] += 1
        os.kill(*((os.getpid(), signal.SIGINT) if ending == "interrupt" else (self.server.pid, signal.SIGKILL)))

    monkeypatch.setattr(Soak, "_check", check)
    code = main(["soak", str(write_artifact(tmp_path / "toy")), "--requests", "100000", "--clients", "2"])
    outcome = capsys.readouterr()
    assert "wrong 0; largest difference" in outcome.out.splitlines()[-1]
    if ending == "interrupt":
        assert code == console.INTERRUPTED
    else:
        assert code == console.FAILURE
        assert "ended with exit code -9" in outcome.err


@LINUX
@pytest.mark.process
def test_a_server_stands_kills_hang_ups_and_overload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = write_artifact(tmp_path / "toy")
    load = ["--seconds", "4", "--clients", "8", "--longest", "6", "--hang-ups", "0.1", "--kill-seconds", "1.5"]
    words = ["soak", str(toy), *load, "--idle-seconds", "0", "--server-options", "--workers 2 --max-queue-tokens 700"]
    assert main(words) == 0, capsys.readouterr().out
    outcome = capsys.readouterr().out.splitlines()[-1]
    assert "unanswered 0; wrong 0" in outcome
    for name in ("refused", "hung up", "workers killed"):
        assert f"{name} 0" not in outcome
