"""Run child processes that answer in JSON.

A broken library crashes or hangs the process that loads it, so this project loads it in a child. :func:`listen` runs a
child that answers once. :class:`JsonWorker` keeps a child that answers each line that it is sent; the child calls
:func:`serve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import EmbeddingBackbonesError, InferenceError

_ROOT = Path(__file__).parents[2]
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_END_TIMEOUT_S = 5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a child process, or how the child failed."""

    facts: dict[str, Any]  # the JSON object that it printed; empty if it failed
    failure: str | None  # how it failed; ``None`` if it answered
    log: str  # the last line of its standard error


def listen(command: Sequence[str], *, timeout_s: float) -> Answer:
    """Run ``command`` and return the JSON object on its last line of output, or how it failed to print one."""
    child = subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        output, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Answer(facts={}, failure=f"gave no answer within {timeout_s:g} s", log="")
    finally:
        _end(child)
    return _read(child.returncode, output, _last_line(errors))


class JsonWorker:
    """A child process that answers each line that it is sent with a line of JSON."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Start the child.

        Args:
            command: Its command line. The child calls :func:`serve`.
            environment: Variables to set in addition to those of this process.
            log: File for the child's standard error; by default the child shares that of this process.
            timeout_s: Seconds to wait for an answer before the child and the processes that it started are killed;
                ``None`` waits for ever.
        """
        self._log = log
        self._timeout_s = timeout_s
        self._timed_out = False
        with log.open("w") if log else contextlib.nullcontext() as errors:
            # A terminal's Ctrl-C shall reach the parent alone, which ends the child without a traceback.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**_environment(), **(environment or {})},
                process_group=0,  # ignored on Windows
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows only
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def ask(self, question: str) -> dict[str, Any]:
        """Send a line and return the answer.

        Raises:
            InferenceError: The child died.
            EmbeddingBackbonesError: The child answered with an error.
        """
        try:
            print(question, file=self._process.stdin, flush=True)
        except (OSError, ValueError) as exc:  # a closed pipe
            raise self._death() from exc
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Return the next answer, for a child that answers without a question. Raise the errors of :meth:`ask`."""
        line = self._read_line()
        if not line.endswith("\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EmbeddingBackbonesError(answer["error"])
        return answer

    def close(self) -> None:
        """End the child, and the processes that it started."""
        output = self._process.stdout
        if output is not None and not output.closed:  # else the child is gone, and its id may be another's
            self._kill()
        _end(self._process)

    def _read_line(self) -> str:
        if self._process.stdout is None or self._process.stdout.closed:
            return ""
        if self._timeout_s is None:
            return self._process.stdout.readline()
        timer = threading.Timer(self._timeout_s, self._kill_late)
        timer.start()
        try:
            return self._process.stdout.readline()
        finally:
            timer.cancel()

    def _kill_late(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        if sys.platform == "win32":  # which has no groups of processes to kill
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS forbids to kill a group that is dead
                os.killpg(self._process.pid, signal.SIGKILL)

    def _death(self) -> InferenceError:
        if self._timed_out:
            return InferenceError(f"the child process gave no answer within {self._timeout_s:g} s")
        code = self._process.wait()
        last = _last_line(self._log.read_text(errors="replace")) if self._log else ""
        return InferenceError(f"the child process died (exit code {code}): {last or 'perhaps it ran out of memory'}")


def serve(answers: Iterable[Mapping[str, Any]]) -> None:
    """Print each answer as a line of JSON: the child's side of :class:`JsonWorker`.

    Output of libraries goes to standard error, so that it is not read as an answer. The process ends at once if the
    parent is gone, as after Ctrl-C.
    """
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):  # else prints wait for the end, and follow the error there
            for answer in answers:
                try:
                    print(json.dumps(answer), file=output, flush=True)
                except OSError:  # a closed pipe; an ordinary exit would print that it cannot flush
                    os._exit(1)


def questions() -> Iterator[str]:
    """Yield the lines that the parent sends, until it closes the child's standard input."""
    for line in sys.stdin:
        yield line.strip()


def _environment() -> dict[str, str]:
    """Return this process's environment, from which a child can import this project's packages."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))}


def _end(child: subprocess.Popen[str]) -> None:
    """Kill a child if it still runs, and close its pipes. Do not wait for one that a broken driver hangs."""
    child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired, OSError, ValueError):  # a closed pipe
        child.communicate(timeout=_END_TIMEOUT_S)


def _read(returncode: int, output: str, log: str) -> Answer:
    if returncode < 0:
        return Answer(facts={}, failure=f"crashed with {_signal_name(-returncode)}", log=log)
    try:
        facts = json.loads(_last_line(output))
    except ValueError:
        return Answer(facts={}, failure=f"ended with exit code {returncode}: {log or 'no message'}", log=log)
    return Answer(facts=facts, failure=None, log=log)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = _COLOUR.sub("", text).strip().splitlines()
    return lines[-1].strip() if lines else ""
