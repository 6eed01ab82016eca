"""Settings are measured in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InferenceError
from runtime.loading.tuning_store import TuneSetting
from runtime.tune.candidate import TuneCandidate
from runtime.tune.measure import TuneOptions, measure
from runtime.tune.report import RefusedCase
from tests.runtime.tune.samples import SETTING, Speed


@pytest.mark.process
def test_real_processes_are_measured(exported_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TuneOptions(batch_sizes=(1, 6), threads=(1,), rounds=2)
    found = measure(exported_text, options)
    assert {(case.setting.threads, case.batch_size) for case in found.measured} == {(1, 1), (1, 6)}
    assert all(0 < case.p50_ms <= case.p95_ms and case.min_cosine > 0.999999 for case in found.measured)
    assert all(case.calls >= 8 for case in found.measured)
    assert found.winner is not None
    assert not found.refused
    assert "golden items of" in found.inputs
    assert "tokens" in found.inputs


@pytest.mark.process
def test_a_worker_that_dies_costs_only_its_own_cases(exported_text: Path) -> None:
    class KilledCandidate(TuneCandidate):
        def load(self) -> tuple[float, float]:
            found = super().load()
            os.kill(self.pid, signal.SIGKILL)
            return found

    def start(folder: Path, tower: Any, setting: TuneSetting) -> TuneCandidate:
        return (TuneCandidate if setting.threads == 1 else KilledCandidate)(folder, tower, setting)

    found = measure(exported_text, TuneOptions(batch_sizes=(1, 2), threads=(1, 2), rounds=1), start=start)
    assert {(case.setting.threads, case.batch_size) for case in found.measured} == {(1, 1), (1, 2)}
    assert [refused.name for refused in found.refused] == [
        f"cpu, fp32, 2 threads, calls of {texts}" for texts in ("1 text", "2 texts")
    ]
    assert "the child process died (exit code -9)" in found.refused[0].reason


def test_a_batch_that_fails_is_refused_and_smaller_ones_continue(
    exported: Path, paced: Callable[[Speed], None]
) -> None:
    def seconds(setting: TuneSetting, size: int) -> float:
        if size == 8:
            raise InferenceError("too little memory")
        return 0.1

    paced(seconds)
    found = measure(exported, TuneOptions(batch_sizes=(1, 8), threads=(1,), rounds=3))
    assert [case.batch_size for case in found.measured] == [1]
    assert found.refused == (RefusedCase(name="cpu, fp32, 2 x 1 thread, batches of 8", reason="too little memory"),)


@pytest.mark.process
def test_ctrl_c_leaves_neither_a_process_nor_a_file(exported_text: Path, cache: Path) -> None:
    words = ["tune", str(exported_text), "--rounds", "1000000", "--batch-sizes", "1", "--threads", "1"]
    tuning = subprocess.Popen(
        [sys.executable, "-m", "runtime", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    workers = _await_workers(tuning.pid)
    os.killpg(tuning.pid, signal.SIGINT)  # as a terminal does
    _, errors = tuning.communicate(timeout=60)
    assert (tuning.returncode, errors) == (130, "interrupted\n")
    deadline = time.monotonic() + 60  # a worker that was just starting ends by itself when its standard input closes
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)
    assert not list(cache.glob("*"))


@pytest.mark.process
def test_a_worker_without_a_parent_ends_silently(exported_text: Path) -> None:
    words = ["runtime.tune.worker", str(exported_text), "text", json.dumps(asdict(SETTING))]
    worker = subprocess.Popen(
        [sys.executable, "-m", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert worker.stdout is not None
    worker.stdout.close()
    worker.stdout = None
    assert worker.communicate(timeout=60)[1] == b""


def _await_workers(parent: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == parent]
        if found:
            return found
    raise AssertionError("no worker was started")


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
