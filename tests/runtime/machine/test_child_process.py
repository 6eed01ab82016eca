"""A child process answers in JSON; a crash, a hang and a closed pipe are reported."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import EmbeddingBackbonesError, InferenceError
from runtime.machine.child_process import Answer, JsonWorker, listen

pytestmark = pytest.mark.process

ECHO = """
import os, sys
from runtime.machine.child_process import questions, serve

def answers():
    print("a library prints")
    yield {"ready": True, "variable": os.environ.get("VARIABLE")}
    for question in questions():
        if question == "fail":
            yield {"error": "no such item; name another one"}
        elif question == "die":
            sys.exit("too little memory")
        elif question == "hang":
            import time
            time.sleep(60)
        else:
            yield {"echo": question}

serve(answers())
"""


def run(code: str, timeout_s: float = 20.0) -> Answer:
    return listen([sys.executable, "-S", "-c", code], timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "crashed with SIGKILL"),
        ("import sys; sys.exit('\\x1b[31mno such library\\x1b[0m')", "ended with exit code 1: no such library"),
        ("print('no JSON')", "ended with exit code 0: no message"),
    ],
)
def test_a_process_that_does_not_answer_is_reported(code: str, failure: str) -> None:
    assert run(code).failure == failure


def test_a_process_that_hangs_is_ended() -> None:
    assert run("import time; time.sleep(60)", timeout_s=0.2).failure == "gave no answer within 0.2 s"


def test_an_answer_is_the_last_line() -> None:
    answer = run("print('a library prints'); print('{\"a\": 1}'); import sys; print('log', file=sys.stderr)")
    assert answer == Answer(facts={"a": 1}, failure=None, log="log")


def start_worker(log: Path, timeout_s: float | None = None) -> JsonWorker:
    command = [sys.executable, "-c", ECHO]
    return JsonWorker(command, environment={"VARIABLE": "set"}, log=log, timeout_s=timeout_s)


def test_a_worker_answers_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    worker = start_worker(tmp_path / "log")
    assert worker.receive() == {"ready": True, "variable": "set"}
    assert worker.ask("one") == {"echo": "one"}
    with pytest.raises(EmbeddingBackbonesError, match="no such item; name another one"):
        worker.ask("fail")
    assert worker.ask("two") == {"echo": "two"}, "an error does not end the worker"
    assert (tmp_path / "log").read_text() == "a library prints\n"
    worker.close()
    worker.close()
    with pytest.raises(InferenceError, match="the child process died"):
        worker.ask("three")


def test_a_worker_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    worker = start_worker(tmp_path / "log")
    worker.receive()
    with pytest.raises(InferenceError, match=r"the child process died \(exit code 1\): too little memory"):
        worker.ask("die")
    with pytest.raises(InferenceError, match=r"exit code 1"):
        worker.ask("again")
    worker.close()


def test_a_worker_that_is_killed_is_reported() -> None:
    worker = JsonWorker([sys.executable, "-c", ECHO])
    worker.receive()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(InferenceError, match=r"exit code -9\): perhaps it ran out of memory"):
        worker.ask("one")
    worker.close()


def test_half_an_answer_is_no_answer() -> None:
    code = "import os, sys; sys.stdin.readline(); os.write(1, b'{\"echo\": '); os.abort()"
    worker = JsonWorker([sys.executable, "-S", "-c", code])
    with pytest.raises(InferenceError, match=r"exit code -6"):
        worker.ask("one")
    worker.close()


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    worker = start_worker(tmp_path / "log", timeout_s=2)
    worker.receive()
    with pytest.raises(InferenceError, match="gave no answer within 2 s"):
        worker.ask("hang")
    worker.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no groups of processes")
def test_the_processes_that_a_worker_started_end_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from runtime.machine.child_process import questions, serve\n"
        "held = open(sys.argv[1], 'w')\n"
        "started = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], stdout=held)\n"
        "serve(iter([{}])); started.wait()\n"
    )
    os.mkfifo(tmp_path / "held")
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    worker = JsonWorker([sys.executable, "-c", code, str(tmp_path / "held")])
    worker.receive()
    worker.close()
    assert select.select([reader], [], [], 20)[0], "the last writer is gone"
    os.close(reader)


def test_a_child_without_a_reader_ends_silently() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ECHO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    assert child.communicate(timeout=60)[1] == b"a library prints\n"
    assert child.returncode == 1
