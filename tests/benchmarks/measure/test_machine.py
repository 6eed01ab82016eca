"""A machine is described fully and without private data. Fakes replace GPUs."""

from __future__ import annotations

import dataclasses
import getpass
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import machine
from benchmarks.measure.machine import find_gpus, this_machine
from benchmarks.results.schema import BenchmarkMachine, Gpu
from runtime.artifact.json_schema import decode
from runtime.machine.child_process import Answer
from runtime.machine.limits import Memory, ThreadBudget
from tests.paths import ROOT

H200 = Gpu(name="NVIDIA H200", memory_bytes=150_000_000_000, driver="580.95.05")


def test_this_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_gpus", lambda: ())
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "not-installed"))
    described = this_machine(None, 2)
    assert described.name == described.cpu
    assert described.threads == 2
    assert described.memory_bytes > 2**28
    assert 1 <= described.cores_allowed <= described.cores
    assert described.packages["onnxruntime"]
    assert described.packages["numpy"] == np.__version__
    assert "not-installed" not in described.packages
    assert len(described.load_average) == 3
    assert (described.gpus, described.cuda, described.cudnn) == ((), None, None)


def test_the_description_is_read_back_from_json() -> None:
    described = this_machine("mine", 1)
    assert described.name == "mine"
    assert decode(BenchmarkMachine, json.loads(json.dumps(dataclasses.asdict(described))), "machine") == described


def test_the_description_has_no_host_user_or_path() -> None:
    text = json.dumps(dataclasses.asdict(this_machine(None, 1)))
    words = set(text.replace('"', " ").replace(",", " ").split())
    assert not words & {platform.node(), getpass.getuser()}
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_quota_and_limits_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = ThreadBudget(cores=64, affinity=16, quota=2.5, threads=3, variables={})
    monkeypatch.setattr(machine, "examine_threads", lambda: budget)
    monkeypatch.setattr(machine, "examine_memory", lambda: Memory(total=1 << 36, available=1 << 35, limit=1 << 32))
    described = this_machine(None, 3)
    assert (described.cores, described.cores_allowed, described.cpu_quota) == (64, 16, 2.5)
    assert (described.memory_bytes, described.memory_limit_bytes) == (1 << 36, 1 << 32)


@pytest.mark.parametrize(
    ("found", "name"),
    [((), "A CPU"), ((H200,), "A CPU + NVIDIA H200"), ((H200, H200), "A CPU + 2 x NVIDIA H200")],
    ids=["no GPU", "one", "two"],
)
def test_the_default_name_is_cpu_and_gpus(found: tuple[Gpu, ...], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_gpus", lambda: found)
    monkeypatch.setattr(machine, "cpu_model", lambda: "A CPU")
    monkeypatch.setattr(machine, "cuda_versions", lambda: (None, None))
    assert this_machine(None, 1).name == name


def test_cuda_versions_come_from_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    report: Any = type("Report", (), {"cuda": type("Cuda", (), {"cudnn": type("Library", (), {"found": "9.24.0"})})})
    survey = Answer(facts={"providers": ["cuda"], "cuda_version": "13.0"}, failure=None, log="")
    monkeypatch.setattr(machine, "find_gpus", lambda: (H200,))
    monkeypatch.setattr(machine, "examine", lambda: report)
    monkeypatch.setattr(machine, "run_probe", lambda _: survey)
    described = this_machine(None, 1)
    assert (described.cuda, described.cudnn) == ("13.0", "9.24.0")


def test_gpus_are_described_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (H200.memory_bytes, 24 << 30)
    monkeypatch.setattr(machine, "gpu_names", lambda: (H200.name,) * 2)
    monkeypatch.setattr(machine, "memory_bytes", lambda number: sizes[number])
    monkeypatch.setattr(machine, "kernel_driver_version", lambda: H200.driver)
    assert find_gpus() == (H200, dataclasses.replace(H200, memory_bytes=sizes[1]))
