"""The server as a process: its signals, its exit code, its log, and what it refuses at the start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.runtime.server.conftest import CLIENT

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]
PRIVATE = "b c secret-text"


@dataclass
class Process:
    popen: subprocess.Popen[str]
    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)

    def read_until(self, message: str) -> dict[str, Any]:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == message:
                return self.log[-1]
        raise AssertionError(self.log)

    def finish(self) -> int:
        assert self.popen.stderr is not None
        self.log += [json.loads(line) for line in self.popen.stderr]
        return self.popen.wait(20)


@contextmanager
def started(*words: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "runtime", "serve", *words, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as popen:
        process = Process(popen)
        try:
            ready = process.read_until("ready")
            process.url = f"http://{ready['host']}:{ready['port']}"
            yield process
        finally:
            popen.kill()


def test_sigterm_lets_requests_in_flight_end(toy: Path) -> None:
    with started(str(toy), "--max-wait-ms", "600") as process, ThreadPoolExecutor() as executor:
        waits = executor.submit(CLIENT.post, f"{process.url}/v1/embeddings", json={"input": PRIVATE})
        while "te_queue_size 1.0" not in CLIENT.get(f"{process.url}/metrics").text:
            pass
        process.popen.send_signal(signal.SIGTERM)
        response = waits.result(20)
        assert response.status_code == 200
        assert process.finish() == 0
        with pytest.raises(httpx2.ConnectError):
            CLIENT.get(process.url)
    lines = [line for line in process.log if line["message"] == "request"]
    assert lines[-1] == lines[-1] | {"path": "/v1/embeddings", "status": 200, "method": "POST"}
    assert response.headers["x-request-id"] == lines[-1]["request_id"]
    assert "secret" not in json.dumps(process.log)


def test_requests_that_outlast_the_drain_get_an_error(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.symlink_to(toy)
    words = ("--max-wait-ms", "60000", "--drain-seconds", "0.2")
    with started(f"BAAI/toy={toy}", str(folder), *words) as process:
        assert process.log[-1]["models"] == ["BAAI/toy", "toy"]
        with ThreadPoolExecutor() as executor:
            body = {"input": "a", "model": "BAAI/toy"}
            waits = executor.submit(CLIENT.post, f"{process.url}/v1/embeddings", json=body)
            while "te_queue_size 1.0" not in CLIENT.get(f"{process.url}/metrics").text:
                pass
            process.popen.send_signal(signal.SIGTERM)
            assert waits.result(20).status_code == 503
        assert process.finish() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory-limit", "1M"], "no room for requests"),
        (["--port", "70000"], "port is 70000"),
        (["--api-key-file", os.devnull], "has no key"),
    ],
)
def test_wrong_options_end_in_one_line(toy: Path, options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "runtime", "serve", str(toy), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
