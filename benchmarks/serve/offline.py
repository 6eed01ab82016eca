"""Embed the items of a workload without a server, as fast as one process can: what HTTP and its batching cost.

``python -m benchmarks.serve.offline ARTIFACT [OPTION ...]`` is the process. It reads the items and the seconds as a
line of JSON. The options are those of ``python -m runtime serve``; those that concern the session count.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import runtime
from benchmarks.measure.cpu_time import read_cpu_time, resident_bytes
from benchmarks.serve.process import parse_server_options
from benchmarks.serve.schema import Load
from benchmarks.serve.workloads import ServeWorkload
from runtime.cli.options import session_keywords
from runtime.machine.child_process import JsonWorker, questions, serve

NAME = "embed, no server"
_TIMEOUT_S = 900.0  # of a call with all items


class OfflineEmbedder:
    """A process that embeds without a server."""

    def __init__(self, artifact: Path, server_options: Sequence[str]) -> None:
        """Start the process, which loads the artifact as a server with these options does."""
        command = [sys.executable, "-m", "benchmarks.serve.offline", str(artifact.absolute()), *server_options]
        self._process = JsonWorker(command, timeout_s=_TIMEOUT_S)

    def measure(self, workload: ServeWorkload, size: int, seconds: float) -> Load:
        """Embed all items, at least once, for about ``seconds``. ``size`` is that of the requests to compare with."""
        before = read_cpu_time()
        question = {"items": list(map(str, workload.items)), "kind": workload.kind, "seconds": seconds}
        answer = self._process.ask(json.dumps(question))
        return Load(
            server=NAME,
            workload=workload.name,
            items=size,
            clients=None,
            rate=None,
            round=0,
            seconds=answer["seconds"],
            completed=answer["items"] // size,
            latency_s=(),
            failures={},
            late_s=0.0,
            generator_cpu=0.0,
            server_cpu_s=answer["cpu_s"],
            server_bytes=answer["bytes"],
            stolen=read_cpu_time().steal_share_since(before),
            checked=0,
            max_difference=None,
            min_cosine=None,
        )

    def close(self) -> None:
        """End the process."""
        self._process.close()


def answers(artifact: Path, server_options: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the items, seconds and CPU time of each question: the child's side."""
    model = runtime.load(artifact, **session_keywords(parse_server_options(server_options)))
    for line in questions():
        question = json.loads(line)
        items = question["items"]
        model.embed(items[:1], tower=question["kind"])
        count, seconds, start, cpu = 0, 0.0, time.perf_counter(), time.process_time()
        while not count or seconds < question["seconds"]:
            model.embed(items, tower=question["kind"])
            count += len(items)
            seconds = time.perf_counter() - start
        cpu_s = time.process_time() - cpu
        yield {"items": count, "seconds": seconds, "cpu_s": cpu_s, "bytes": resident_bytes(os.getpid())}


if __name__ == "__main__":
    serve(answers(Path(sys.argv[1]), sys.argv[2:]))
