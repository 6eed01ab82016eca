"""Start a server for an artifact on this machine, and stop it."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.cli.main import build_parser
from runtime.errors import EmbeddingBackbonesError, UsageError

_START_TIMEOUT_S = 300  # a large model reads its weights, checks itself and warms up
_STOP_TIMEOUT_S = 30
_POLL_S = 0.05
_PORT = re.compile(r'"port": ?(\d+)')


@dataclass(frozen=True, kw_only=True)
class StartedServer:
    """A server that this process started."""

    url: str
    pid: int
    check: Callable[[], None]  # raises an error if the process has ended.


@contextlib.contextmanager
def start_server(command: Sequence[str]) -> Iterator[StartedServer]:
    """Start a server on this machine, yield it, and stop it.

    The server must log the port that it listens on, as ``python -m runtime serve`` does: ``"port": 8080``.

    Raises:
        EmbeddingBackbonesError: It did not start.
    """
    name = shlex.join(command)
    with tempfile.TemporaryFile("w+") as log:
        # A terminal's Ctrl-C shall reach this process alone, which stops the server after the last report is written.
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, process_group=0)
        try:
            url = f"http://127.0.0.1:{_wait_for_port(server, log, name)}"
            yield StartedServer(url=url, pid=server.pid, check=lambda: _check(server, log, name))
        finally:
            _stop(server)


def serve_command(artifact: Path, options: Sequence[str]) -> list[str]:
    """Return the command that serves an artifact on a free port of the loopback."""
    return [sys.executable, "-m", "runtime", "serve", str(artifact), "--port", "0", *options]


def split_server_options(text: str) -> list[str]:
    """Return the words of ``--server-options``.

    Raises:
        UsageError: A quote is not closed.
        SystemExit: ``python -m runtime serve`` does not know them; its own message is printed.
    """
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"--server-options is {text!r:.200} ({exc}); close the quotes") from exc
    parse_server_options(words)
    return words


def parse_server_options(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of ``python -m runtime serve`` that ``words`` stand for, with their defaults."""
    return build_parser().parse_args(["serve", "ARTIFACT", *words])


def _wait_for_port(server: subprocess.Popen[str], log: IO[str], name: str) -> int:
    end, text = time.monotonic() + _START_TIMEOUT_S, ""
    while server.poll() is None and time.monotonic() < end:
        log.seek(0)
        text = log.read()
        if found := _PORT.search(text):
            return int(found[1])
        time.sleep(_POLL_S)
    raise EmbeddingBackbonesError(f"`{name}` did not start: {_last_line(log)}")


def _check(server: subprocess.Popen[str], log: IO[str], name: str) -> None:
    if (code := server.poll()) is not None:
        raise EmbeddingBackbonesError(f"`{name}` ended with exit code {code} under the load: {_last_line(log)}")


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    return (log.read().strip().splitlines() or ["it logged nothing"])[-1]


def _stop(server: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        server.send_signal(signal.SIGTERM)
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
