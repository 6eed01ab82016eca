"""Several workers of one server: a killed one is replaced, metrics are sums, and SIGTERM lets requests end."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe, connection
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

import runtime
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.server import run, supervisor
from runtime.server.settings import ServerJob, ServerSettings
from runtime.server.supervisor import divide
from tests.runtime.server.conftest import CLIENT
from tests.runtime.server.test_process import started

LOADED = b'{"toy": "vs1-a"}'
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers share a port on Linux only")
JOB = ServerJob(
    artifacts={},
    settings=ServerSettings(memory_limit=1000, max_queue_tokens=90),
    session={"threads": 8, "variant": "fp32"},
)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(url: str, text: str) -> list[float]:
    """Ask over a new connection, again if the worker of the connection was killed."""
    for _ in range(5):
        try:
            answer = httpx2.post(f"{url}/v1/embeddings", json={"input": text}, timeout=20, trust_env=False)
        except httpx2.TransportError:
            continue
        assert answer.status_code == 200
        vector: list[float] = answer.json()["data"][0]["embedding"]
        return vector
    raise AssertionError("no answer")


@LINUX
def test_each_worker_has_its_share() -> None:
    share = divide(JOB, 4)
    assert (share.settings.memory_limit, share.settings.max_queue_tokens) == (250, 22)
    assert share.session == {"threads": 2, "concurrent_batches": None, "variant": "fp32"}
    assert divide(JOB, 100).session["threads"] == 1
    session = {"threads": 8, "concurrent_batches": 8}
    assert divide(replace(JOB, session=session), 4).session == {"threads": 2, "concurrent_batches": 2}
    for wrong in ({"threads": 0}, {"threads": 9}, {"threads": 4, "concurrent_batches": 99}):
        with pytest.raises(UsageError, match="must be from 1 to"):
            divide(replace(JOB, session=wrong), 2)


def test_workers_are_refused_where_they_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="workers is 0"):
        divide(JOB, 0)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="on Linux only"):
        divide(JOB, 2)


class FakeWorker:
    """A worker without a process. Its end of the pipe is ``theirs``."""

    made: list[FakeWorker]

    def __init__(self, job: ServerJob) -> None:
        self.job = job
        self.pipe, self.theirs = Pipe()
        self.process = SimpleNamespace(pid=len(self.made), exitcode=1, join=lambda: None)
        self.loaded, self.may_listen, self.ready, self.told, self.silent_s = False, False, False, 0, 0.0
        self.made.append(self)

    def listen(self) -> None:
        self.may_listen = True

    def report(self, boss: supervisor.Supervisor, *messages: bytes) -> None:
        for message in messages:
            self.theirs.send_bytes(message)
            boss._step()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the processes of a supervisor, and its clock by the time in this list."""
    now = [0.0]
    monkeypatch.setattr(FakeWorker, "made", list[FakeWorker](), raising=False)
    for name, value in (
        ("Worker", FakeWorker),
        ("mark_process_dead", lambda pid: None),
        ("time", SimpleNamespace(monotonic=lambda: now[0])),
        ("_POLL_S", 0.25),
        ("wait", lambda pipes, timeout: connection.wait(pipes, 0)),
    ):
        monkeypatch.setattr(supervisor, name, value)
    return now


@LINUX
@pytest.mark.parametrize("last", ["loads", "fails", "is late"])
def test_workers_start_together_after_the_first_and_listen_at_the_same_time(last: str, now: list[float]) -> None:
    boss, made = supervisor.Supervisor(JOB, 3), FakeWorker.made
    boss._step()
    boss._step()
    assert len(made) == 1
    made[0].report(boss, LOADED)
    boss._step()
    assert [worker.job.spaces for worker in made] == [{}, {"toy": "vs1-a"}, {"toy": "vs1-a"}]
    made[1].report(boss, LOADED)
    assert not any(worker.may_listen for worker in made)
    if last == "loads":
        made[2].report(boss, LOADED)
    elif last == "fails":
        made[2].theirs.close()
        boss._step()
    else:
        _pass(31, boss, now)
    assert [worker.may_listen for worker in made] == [True, True, last == "loads"]
    assert not boss._signals
    boss._leave()


@LINUX
def test_workers_wait_for_those_that_load_as_slowly_as_the_first(now: list[float]) -> None:
    boss, made = supervisor.Supervisor(JOB, 2), FakeWorker.made
    _pass(40, boss, now)
    made[0].report(boss, LOADED)
    _pass(80, boss, now)
    assert not made[0].may_listen
    made[1].report(boss, LOADED)
    assert made[0].may_listen
    assert made[1].may_listen
    boss._leave()


def _pass(seconds: int, boss: supervisor.Supervisor, now: list[float]) -> None:
    for _ in range(2 * seconds):
        boss._step()
        now[0] += 0.5
    boss._step()


@LINUX
def test_a_worker_that_cannot_start_any_more_is_tried_less_and_less_often(now: list[float]) -> None:
    boss, made = supervisor.Supervisor(JOB, 2), FakeWorker.made
    boss._step()
    made[0].report(boss, LOADED, b"ready")
    made[1].report(boss, LOADED, b"ready")
    made[0].theirs.close()
    starts = []
    for tick in range(20):
        now[0] = float(tick)
        before = len(made)
        boss._step()
        boss._step()
        if len(made) > before:
            starts.append(tick)
            made[-1].theirs.close()
            boss._step()
    assert starts == [0, 2, 6, 14]
    boss._leave()


@LINUX
def test_a_worker_that_the_system_does_not_start_leaves_the_others(
    now: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job: ServerJob) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    boss, made = supervisor.Supervisor(JOB, 2), FakeWorker.made
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "Worker", fail)
        with pytest.raises(EmbeddingBackbonesError, match=r"cannot start a worker process \(no more processes\)"):
            boss._step()
    boss._step()
    made[0].report(boss, LOADED, b"ready")
    made[1].report(boss, LOADED, b"ready")
    made[0].process.exitcode = -signal.SIGBUS  # as with metrics on a full disk
    made[0].theirs.close()
    with monkeypatch.context() as patch, caplog.at_level("INFO", "runtime.server"):
        patch.setattr(supervisor, "Worker", fail)
        boss._step()
        boss._step()
    logged = [record.__dict__["fields"] for record in caplog.records]
    died, cannot_start = (each["reason"] for each in logged if "reason" in each)
    assert "which holds the metrics, is full" in died
    assert "(no more processes); raise" in cannot_start
    now[0] += 2
    boss._step()
    assert len(made) == 3
    boss._leave()


@LINUX
def test_workers_do_not_hang_while_the_supervisor_itself_stands_still(now: list[float]) -> None:
    boss, killed = supervisor.Supervisor(JOB, 1), list[int]()
    boss._step()
    (worker,) = FakeWorker.made
    worker.process.kill = lambda: killed.append(1)
    worker.report(boss, LOADED, b"ready")
    for seconds, kills in ((3600.0, 0), *[(0.5, 0)] * 59, (0.5, 1)):  # 0.5 s of the hour count
        now[0] += seconds
        boss._step()
        assert len(killed) == kills
    boss._leave()


def test_a_worker_refuses_other_spaces_than_those_of_the_first_one(
    toy: Path, model: runtime.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "prepare_process", lambda settings: None)
    job = ServerJob(artifacts={"toy": toy}, settings=ServerSettings(), session={"threads": 1})
    service = run.load_service(job)
    spaces = service.spaces
    service.close()
    assert spaces == {"toy": model.space}
    run.load_service(replace(job, spaces=spaces)).close()
    with pytest.raises(
        runtime.SpaceError, match=r"\(fp32\), and in vs1-a where the server began: .*; restart the server"
    ):
        run.load_service(replace(job, spaces={"toy": "vs1-a"}))


@LINUX
@pytest.mark.process
def test_a_killed_worker_is_replaced_and_sigterm_lets_requests_end(toy: Path, model: runtime.Embedder) -> None:
    expected = {text: model.embed([text])[0].tolist() for text in ("a", "b c")}
    with started(str(toy), "--workers", "2", "--max-wait-ms", "2500") as process, ThreadPoolExecutor(20) as executor:
        workers = process.log[-1]["workers"]
        texts = ["a", "b c"] * 10
        assert list(executor.map(lambda text: ask(process.url, text), texts)) == [expected[text] for text in texts]
        page = CLIENT.get(f"{process.url}/metrics").text
        assert "# TYPE te_embed_count counter\nte_embed_count 20.0\n" in page
        assert {int(pid) for pid in re.findall(r'resident_memory_bytes\{pid="(\d+)"\}', page)} == set(workers)

        os.kill(workers[0], signal.SIGKILL)
        assert process.read_until("worker died")["worker"] == workers[0]
        assert ask(process.url, "a") == expected["a"]
        new = process.read_until("worker ready")["pid"]
        page = CLIENT.get(f"{process.url}/metrics").text
        assert "te_embed_count 21.0" in page
        assert f'pid="{workers[0]}"' not in page

        waits = [executor.submit(ask, process.url, "b c") for _ in range(8)]
        while "te_admitted_tokens 32.0" not in CLIENT.get(f"{process.url}/metrics").text:
            pass
        process.popen.send_signal(signal.SIGTERM)
        assert [each.result(20) for each in waits] == [expected["b c"]] * 8
        assert process.finish() == 0
        wait_until_gone([workers[1], new])


@LINUX
@pytest.mark.process
def test_a_worker_that_hangs_is_replaced(toy: Path) -> None:
    with started(str(toy), "--workers", "2", "--hang-seconds", "5") as process:
        stopped, other = process.log[-1]["workers"]
        os.kill(stopped, signal.SIGSTOP)
        assert process.read_until("worker hangs")["worker"] == stopped
        assert process.read_until("worker died")["exit_code"] == -signal.SIGKILL
        assert process.read_until("worker ready")["pid"] not in (stopped, other)
        assert is_alive(other)


@LINUX
@pytest.mark.process
def test_workers_end_when_their_supervisor_is_gone(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started(str(toy), "--workers", "2") as process:
        workers = process.log[-1]["workers"]
        taken = [sys.executable, "-m", "runtime", "serve", str(toy), "--workers", "2"]
        port = process.url.rpartition(":")[2]
        done = subprocess.run([*taken, "--port", port], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert "cannot listen" in done.stderr
        process.popen.kill()
        wait_until_gone(workers)
    assert not list(tmp_path.glob("metrics-*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(port)))


@LINUX
@pytest.mark.process
def test_an_artifact_that_no_worker_can_serve_is_reported_once(toy: Path) -> None:
    command = [sys.executable, "-m", "runtime", "serve", str(toy), "--workers", "3", "--memory-limit", "3M"]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("no room for requests") == 1
