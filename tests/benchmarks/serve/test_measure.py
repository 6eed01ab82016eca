"""Test the figures of a load: levels, knees, the search for a rate, and the check of answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from benchmarks.serve import measure, offline
from benchmarks.serve.analysis import Curve, Level, curve_of
from benchmarks.serve.connection import split_url
from benchmarks.serve.interfaces import Endpoint, make_endpoint
from benchmarks.serve.loops import LoopOptions, Sample, arrivals
from benchmarks.serve.measure import (
    AnswerCheck,
    Expected,
    LoadPlan,
    Measurement,
    Server,
    ServerError,
    embed_alone,
    measure_load,
    next_rate,
    whole_rate,
)
from benchmarks.serve.process import start_server
from benchmarks.serve.schema import Load
from benchmarks.serve.workloads import ServeWorkload, cut_texts, make_workload
from runtime.errors import EmbeddingBackbonesError
from tests.benchmarks.serve.samples import LOAD, RESULTS
from tests.benchmarks.serve.toy_server import ToyServer, toy_server

WORKLOAD = ServeWorkload(name="short", source="made up", items=tuple(f"text number {n}" for n in range(6)))

PLAN = LoadPlan(
    sizes=(1,),
    clients=(1,),
    rates=None,
    refinements=1,
    rounds=1,
    seconds=0.05,
    warm_up_s=0.0,
    timeout_s=1.0,
    max_p99_ms=None,
)


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with toy_server() as server:
        yield server


def test_percentiles_are_of_all_rounds_and_throughput_is_their_median() -> None:
    rounds = [
        replace(LOAD, items=4, seconds=2.0, completed=done, latency_s=tuple(n / 1000 for n in range(first, first + 50)))
        for done, first in ((20, 1), (30, 51), (1000, 101))
    ]
    level = Level(loads=tuple(rounds))
    assert level.requests_per_s == 15
    assert level.items_per_s == 60
    assert level.percentile_ms(50) == pytest.approx(75.5)
    assert level.p99_ms == pytest.approx(148.51)
    assert Level(loads=tuple(rounds[:1])).p99_ms is None  # 50 successes


def test_cpu_time_is_per_item_of_the_answers() -> None:
    level = Level(loads=(replace(LOAD, items=4, completed=10, server_cpu_s=0.2),))
    assert level.cpu_ms_per_item == pytest.approx(5)
    assert Level(loads=(replace(LOAD, server_cpu_s=None),)).cpu_ms_per_item is None
    assert Level(loads=(replace(LOAD, completed=0, latency_s=(), server_cpu_s=1.0),)).cpu_ms_per_item is None


def open_level(rate: float, latency_s: float, *, completed: int = 200, failed: int = 0) -> Level:
    failures = {"refused: status 429": failed} if failed else {}
    load = replace(LOAD, clients=None, rate=rate, completed=completed, failures=failures)
    return Level(loads=(replace(load, latency_s=(latency_s,) * (200 - failed)),))


def test_a_rate_is_sustained_if_nearly_all_are_answered_in_time() -> None:
    assert open_level(10, 0.1).sustained
    assert open_level(10, 0.1, completed=187).sustained
    assert not open_level(10, 0.1, completed=186).sustained  # a queue grows
    assert open_level(10, 0.1, completed=198, failed=2).sustained
    assert not open_level(10, 0.1, completed=197, failed=3).sustained
    overloaded = replace(LOAD, clients=None, rate=1.6, completed=5, latency_s=(1.0,) * 8)  # the server answers 1 per s
    assert Level(loads=(overloaded,) * 3).sustained is None
    assert Level(loads=(replace(overloaded, completed=8),) * 3).sustained
    assert Level(loads=(replace(overloaded, completed=4),) * 3).sustained is False
    late = replace(LOAD, clients=None, rate=0.2, completed=0, latency_s=(6.0,))
    assert not Level(loads=(late,)).sustained  # its only request is answered after the end
    assert open_level(10, 0.1).within(100.1)
    assert not open_level(10, 0.1).within(99)
    assert not open_level(10, 0.1, completed=100).within(1000)


def test_a_p99_of_too_few_requests_is_not_judged() -> None:
    many = open_level(10, 0.1)
    few = Level(loads=(replace(many.load, completed=99, latency_s=(0.1,) * 99),))
    failing = Level(loads=(replace(few.load, completed=10),))
    assert [few.within(1000), few.within(1), failing.within(1000)] == [None, None, False]
    curve = Curve(server="a", workload="short", items=1, offline=None, closed=(), open=(few, failing))
    assert curve.within(1000) is None
    assert curve.is_unknown(1000)
    assert not replace(curve, open=(few, many)).is_unknown(1000)
    assert not replace(curve, open=(failing,)).is_unknown(1000)


def test_knee_capacity_and_bound_are_different_rates() -> None:
    found = (open_level(10, 0.1), open_level(40, 0.2), open_level(50, 0.6), open_level(60, 2.0, completed=100))
    levels = tuple(Level(loads=(replace(level.load, seconds=200 / (level.load.rate or 1)),)) for level in found)
    curve = Curve(server="a", workload="short", items=1, offline=None, closed=(), open=levels)
    assert [each and each.load.rate for each in (curve.knee, curve.capacity, curve.within(150))] == [40, 50, 10]
    assert curve.within(50) is None
    none = replace(curve, open=levels[3:])
    assert (none.knee, none.capacity) == (None, None)


def test_levels_of_a_curve_are_in_order_with_all_rounds() -> None:
    loads = [replace(LOAD, clients=clients, round=n) for n in (0, 1) for clients in (8, 1)]
    loads += [replace(LOAD, clients=None, rate=5.0), replace(LOAD, server="other", clients=3)]
    curve = curve_of(loads, LOAD.server, LOAD.workload, LOAD.items)
    assert [(level.load.clients, len(level.loads)) for level in curve.closed] == [(1, 2), (8, 2)]
    assert [level.load.rate for level in curve.open] == [5.0]


@pytest.mark.parametrize(("seconds", "refinement"), [(5.0, []), (25.0, [5.52])], ids=["too few", "enough"])
def test_a_rate_with_too_few_requests_for_a_p99_is_no_refinement(
    seconds: float, refinement: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(server: Server, workload: Any, size: int, options: LoopOptions, expected: Expected) -> Load:
        count = round((options.rate or 1) * options.seconds)
        latency_s = 0.1 if (options.rate or 0) < 6 else 9.0
        load = replace(LOAD, server=server.name, clients=options.clients, rate=options.rate, seconds=options.seconds)
        return replace(load, completed=count, latency_s=(latency_s,) * count)

    monkeypatch.setattr(measure, "measure_load", fake)
    monkeypatch.setattr(measure, "embed_alone", lambda *words: {})
    server = Server(name="ours", endpoint=make_endpoint("http://h"), pid=None)
    plan = replace(PLAN, rates=(5.0, 6.0), seconds=seconds, max_p99_ms=200.0)
    measurement = Measurement(plan, [server], replace(RESULTS, loads=()))
    measurement.measure(WORKLOAD)
    assert [load.rate for load in measurement.results.loads if load.rate][2:] == refinement


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        ([(10.0, True), (20.0, False)], 15),
        ([(10.0, True), (20.0, True)], 25),  # all are good: try more
        ([(10.0, False), (20.0, False)], 5),  # none is good: try less
        ([], None),  # it answers nothing
        ([(10.0, True), (20.0, False), (30.0, True), (40.0, False)], 35),  # chance failed one
    ],
)
def test_the_next_rate_halves_the_gap_at_the_limit(judged: list[tuple[float, bool]], expected: float | None) -> None:
    assert next_rate(judged) == expected


@pytest.mark.parametrize(("rate", "seconds", "sent"), [(0.1, 5, 0.2), (0.3, 5, 0.4), (7.1, 2, 7), (7.0, 2, 7)])
def test_a_rate_is_the_one_that_is_sent(rate: float, seconds: float, sent: float) -> None:
    options = LoopOptions(seconds=seconds, warm_up_s=0.0, timeout_s=1.0, rate=whole_rate(rate, seconds))
    assert options.rate == sent == len(arrivals(options)) / seconds


def test_a_server_that_answers_nothing_gets_no_open_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def fake(server: Server, workload: Any, size: int, options: LoopOptions, expected: Expected) -> Load:
        seeds.append(options.seed)
        completed = 50 if server.name == "good" else 0
        load = replace(LOAD, server=server.name, clients=options.clients, rate=options.rate)
        return replace(load, completed=completed, latency_s=(0.1,) * completed)

    monkeypatch.setattr(measure, "measure_load", fake)
    monkeypatch.setattr(measure, "embed_alone", lambda *words: {})
    endpoint = make_endpoint("http://h")
    servers = [Server(name=name, endpoint=endpoint, pid=None) for name in ("good", "bad")]
    measurement = Measurement(replace(PLAN, seconds=5.0, rounds=2), servers, replace(RESULTS, loads=()))
    measurement.measure(WORKLOAD)
    found = list(dict.fromkeys((load.server, load.clients, load.rate) for load in measurement.results.loads))
    assert seeds == [load.round for load in measurement.results.loads], "each round has other arrivals"
    assert found[:2] == [("good", 1, None), ("bad", 1, None)]
    assert found[2:] == [("good", None, rate) for rate in (1, 3, 5, 7, 8, 9, 10, 11, 13.8)]


def test_a_load_is_measured_against_a_real_server(server: ToyServer) -> None:
    target = Server(name="toy", endpoint=make_endpoint(server.url, model="toy"), pid=os.getpid())
    expected = Expected(alone=embed_alone(target, WORKLOAD, 4, 10.0), reference={})
    options = LoopOptions(seconds=0.2, warm_up_s=0.0, timeout_s=10.0, rate=50.0)
    load = measure_load(target, WORKLOAD, 2, options, expected)
    assert (load.server, load.workload, load.items, load.rate, load.clients) == ("toy", "short", 2, 50.0, None)
    assert len(load.latency_s) == load.checked == 10
    assert load.failures == {}
    assert load.max_difference == 0
    assert load.min_cosine is None
    if sys.platform == "linux":
        assert load.server_bytes
        assert load.server_cpu_s is not None


def test_refusals_and_wrong_answers_are_no_successes(server: ToyServer) -> None:
    target = Server(name="toy", endpoint=make_endpoint(server.url, model="toy"), pid=None)
    expected = Expected(alone=embed_alone(target, WORKLOAD, 1, 10.0), reference={})
    options = LoopOptions(seconds=0.1, warm_up_s=0.0, timeout_s=10.0, rate=50.0)
    server.status = 429
    load = measure_load(target, WORKLOAD, 1, options, expected)
    assert (load.failures, load.latency_s, load.completed) == ({"refused: status 429": 5}, (), 0)
    server.status, server.extra = 200, 1
    load = measure_load(target, WORKLOAD, 1, options, expected)
    assert sum(load.failures.values()) == 5
    assert all(reason.startswith("wrong: ") for reason in load.failures)
    assert (load.latency_s, load.completed, load.server_cpu_s) == ((), 0, None)


def test_a_server_without_vectors_is_refused_before_the_measurement(server: ToyServer) -> None:
    target = Server(name="toy", endpoint=make_endpoint(server.url), pid=None)
    server.status = 401
    with pytest.raises(ServerError, match="status 401"):
        embed_alone(target, WORKLOAD, 1, 10.0)
    server.status, server.extra = 200, 1
    with pytest.raises(ServerError, match="shape"):
        embed_alone(target, WORKLOAD, 1, 10.0)


def answer(vectors: list[list[float]], number: int = 0) -> Sample:
    data = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    body = json.dumps({"data": data}).encode()
    return Sample(number=number, due_s=0, begun_s=0, end_s=1, outcome="ok", body=body)


def test_vectors_under_load_are_compared_with_those_of_the_item_alone() -> None:
    endpoint = Endpoint(address=split_url("http://h")[0], path="", interface="openai")
    alone = {0: np.array([1, 0], np.float32), 1: np.array([0, 1], np.float32)}
    reference = {1: np.array([0, 2], np.float32)}
    check = AnswerCheck(endpoint, [(0, 1), (2, 3)], Expected(alone=alone, reference=reference))
    assert check(answer([[1, 0], [0, 1]])).outcome == "ok"
    assert [check.max_difference, check.min_cosine] == pytest.approx([0, 1])
    assert check(answer([[0.75, 0], [0.25, 1]])).outcome == "ok"
    assert [check.max_difference, check.min_cosine] == pytest.approx([0.25, 1.0625**-0.5])
    assert check(answer([[5, 5], [6, 6]], number=1)).outcome == "ok"  # items that were not embedded alone
    assert check.max_difference == 0.25
    wrong = [check(answer([[1, 0]])), check(answer([[1, 0, 0], [0, 1, 0]])), check(answer([[0, 1], [1, 0]]))]
    assert [sample.outcome for sample in wrong] == ["wrong"] * 3
    assert "3 dimensions" in wrong[1].reason
    assert "another vector than that of the item alone" in wrong[2].reason
    assert check.checked == 6


def test_two_vectors_of_zeros_are_equal() -> None:
    endpoint = Endpoint(address=split_url("http://h")[0], path="", interface="openai")
    zeros = {0: np.zeros(2, np.float32)}
    check = AnswerCheck(endpoint, [(0,)], Expected(alone=zeros, reference=zeros))
    assert check(answer([[0, 0]])).outcome == "ok"
    assert (check.max_difference, check.min_cosine) == (0, 1)
    assert check(answer([[0, 1]])).outcome == "wrong"


def test_an_empty_answer_is_wrong_and_one_that_was_not_kept_is_unchecked() -> None:
    endpoint = Endpoint(address=split_url("http://h")[0], path="", interface="openai")
    check = AnswerCheck(endpoint, [(0,)], Expected(alone={0: np.array([1, 0], np.float32)}, reference={}))
    empty, unkept = (check(replace(answer([]), body=body)) for body in (b"", None))
    assert (empty.outcome, unkept.outcome, check.checked) == ("wrong", "ok", 1)
    assert "holds no vectors" in empty.reason


def test_a_server_that_ended_stops_the_measurement(server: ToyServer) -> None:
    def check() -> None:
        raise EmbeddingBackbonesError("the server ended")

    target = Server(name="toy", endpoint=make_endpoint(server.url, model="toy"), pid=None, check=check)
    measurement = Measurement(PLAN, [target], replace(RESULTS, loads=()))
    with pytest.raises(EmbeddingBackbonesError, match="the server ended"):
        measurement.measure(WORKLOAD)
    assert measurement.results.loads == ()


def test_a_process_embeds_all_items_at_once_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, str]] = []

    loaded: list[dict[str, Any]] = []

    class Model:
        def embed(self, items: list[str], tower: str) -> None:
            calls.append((len(items), tower))

    class Process:
        """Answer in this process."""

        def __init__(self, command: list[str], timeout_s: float) -> None:
            assert command[1:3] == ["-m", "benchmarks.serve.offline"]
            self.arguments = command[3:]

        def ask(self, question: str) -> dict[str, Any]:
            monkeypatch.setattr(offline, "questions", lambda: iter([question]))
            (answer,) = offline.answers(Path(self.arguments[0]), self.arguments[1:])
            return answer

    def load_model(artifact: Path, **session: Any) -> Model:
        loaded.append(session)
        return Model()

    monkeypatch.setattr(runtime, "load", load_model)
    monkeypatch.setattr(offline, "JsonWorker", Process)
    words = ["--variant", "int8", "--threads", "1", "--provider", "cpu", "--workers", "2"]
    monkeypatch.setattr("benchmarks.serve.offline.time.perf_counter", lambda: 0.1 * len(calls))
    for seconds, passes in ((0.0, 1), (0.25, 3)):
        calls.clear()
        load = offline.OfflineEmbedder(Path("toy"), words).measure(WORKLOAD, 2, seconds)
        assert calls == [(1, "text"), *[(6, "text")] * passes]
        assert load.completed == 3 * passes  # all six items, in requests of two
        assert load.seconds == pytest.approx(0.1 * passes)
        assert load.server_cpu_s is not None
        assert (load.clients, load.rate) == (None, None)
    assert loaded[0].items() >= {"variant": "int8", "threads": 1, "provider": "cpu"}.items()


def test_every_item_is_sent_equally_often() -> None:
    for size in (1, 4, 6, 9):
        positions = [position for batch in WORKLOAD.batches(size) for position in batch]
        assert {positions.count(n) for n in range(6)} == {len(positions) // 6}
        assert {len(batch) for batch in WORKLOAD.batches(size)} == {size}


def test_texts_have_the_sizes_that_were_asked_for() -> None:
    texts = list(cut_texts(["some words of a text", "and others, too"], 5, 40, 200))
    counts = [len(text.split()) for text in texts]
    assert len(texts) == 200
    assert min(counts) < 6
    assert 25 < max(counts) <= 40


def test_own_texts_are_sent(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("\n".join(f"text {n}" for n in range(20)))
    workload = make_workload("own", ("text", file), tmp_path)
    assert {*workload.items} == {f"text {n}" for n in range(20)}
    assert workload.source == "20 texts of 6 to 7 characters (median 7), from own.txt"


@pytest.mark.process
def test_a_server_is_started_and_stopped() -> None:
    program = """
import signal, sys
print('{"message": "ready", "port": 4242}', flush=True)
signal.pause()
"""
    with start_server([sys.executable, "-c", program]) as server:
        assert server.url == "http://127.0.0.1:4242"
        server.check()
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


@pytest.mark.process
def test_a_server_that_ends_says_why() -> None:
    program = """
import time
print('{"message": "ready", "port": 4242}', flush=True)
time.sleep(0.3)
raise SystemExit("no memory left")
"""
    with start_server([sys.executable, "-c", program]) as server:
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(EmbeddingBackbonesError, match="ended with exit code 1 under the load: no memory left"):
            server.check()


@pytest.mark.process
def test_a_server_that_does_not_start_says_why() -> None:
    starting = start_server([sys.executable, "-c", "raise SystemExit('no such artifact')"])
    with pytest.raises(EmbeddingBackbonesError, match=r"did not start: no such artifact"), starting:
        pytest.fail("it started")
