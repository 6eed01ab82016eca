from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.serve.interfaces import make_endpoint
from benchmarks.serve.soak import Pool, Soak, build_parser
from tests.benchmarks.serve.toy_server import ToyServer, toy_server, vector_of
from tests.runtime.toy_artifact import write_artifact

TEXTS = [f"text {n}" for n in range(4)]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers share a port on Linux only")


def soak(server: ToyServer, *words: str, shift: float = 0.0) -> Soak:
    options = build_parser().parse_args(["artifact", "--clients", "3", "--idle-seconds", "0", *words])
    pool = Pool(texts=TEXTS, vectors=np.array([vector_of(text) for text in TEXTS], np.float32) + np.float32(shift))
    made = Soak(options, pool, make_endpoint(server.url), os.getpid())
    asyncio.run(made.run())
    return made


def test_right_answers_and_hang_ups_are_counted() -> None:
    with toy_server() as server:
        made = soak(server, "--requests", "20", "--hang-ups", "0.3")
    assert made.counts["answered"] + made.counts["hung up"] == 20
    assert made.counts["hung up"] > 0
    assert made.difference < 1e-6
    assert "wrong 0" in made.report()[-1]


def test_wrong_vectors_are_found() -> None:
    with toy_server() as server:
        made = soak(server, "--requests", "5", shift=0.01)
        assert made.counts["wrong"] == made.counts["answered"] == 5
        server.extra = 1
        assert soak(server, "--requests", "5").counts["wrong"] == 5


def test_refusals_are_asked_again_until_the_time_is_over() -> None:
    with toy_server() as server:
        server.status = 429
        made = soak(server, "--requests", "3", "--timeout", "0.2")
    assert made.counts["given up"] == 3
    assert made.counts["unanswered"] == 0
    assert made.counts["refused"] >= 3


def test_an_answer_that_never_comes_is_found() -> None:
    with toy_server() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        server.server_address = silent.getsockname()
        assert soak(server, "--requests", "2", "--timeout", "0.2").counts["unanswered"] == 2


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
