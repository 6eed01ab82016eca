"""Ceilings are the best rates of all worker processes. Nothing here asserts on a clock."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.ceilings import measure as ceilings
from benchmarks.ceilings import worker
from benchmarks.ceilings.engines import (
    ENGINES,
    READ_PASSES,
    Call,
    Numpy,
    OnnxRuntime,
    Torch,
    dequantized_product,
    integer_product,
)
from benchmarks.ceilings.measure import measure_ceilings
from benchmarks.ceilings.worker import CeilingOptions, measure_engine
from benchmarks.results.schema import Ceiling, Device, Precision
from runtime.errors import ProviderError
from runtime.machine.child_process import Answer
from runtime.session.providers import import_onnxruntime

Answers = dict[tuple[str, str], Answer]


def facts(device: str, read: float | None, *problems: str, **products: float) -> Answer:
    answer = {"device": device, "products": products, "read_bytes_per_s": read, "problems": list(problems)}
    return Answer(facts=answer, failure=None, log="")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str]]]:
    """Give the processes their answers, and return the processes that were asked."""

    def give(answers: Answers, *, gpus: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        asked: list[tuple[str, str]] = []

        def listen(command: list[str], *, timeout_s: float) -> Answer:
            engine, place, threads = command[-3:]
            assert threads == "3"
            asked.append((engine, place))
            return answers.get((engine, place), facts("cpu", None))

        monkeypatch.setattr(ceilings, "listen", listen)
        monkeypatch.setattr(ceilings, "gpu_names", lambda: gpus)
        return asked

    return give


def test_the_best_engine_of_each_device_and_precision_is_kept(pretend: Any) -> None:
    answers = {
        ("numpy", "cpu"): facts("cpu", 5e9),
        ("onnxruntime", "cpu"): facts("cpu", None, fp32=2e9, int8=9e9),
        ("onnxruntime", "cuda"): facts("cuda", 1e12, fp32=3e12, fp16=5e12),
        ("openvino", "openvino"): facts("cpu", None, fp32=1e9),
        ("torch", "cpu"): facts("cpu", 4e9, fp32=3e9, int8=8e9, bf16=1e9),
        ("torch", "cuda"): facts("cuda", 2e12, fp32=2e12, fp16=6e12),
    }
    asked = pretend(answers, gpus=("NVIDIA H200",))
    found = measure_ceilings(3, ["cpu", "cuda", "tensorrt", "openvino"])
    assert asked == list(answers)
    assert found.read_bytes_per_s == {"cpu": 5e9, "cuda": 2e12}
    assert set(found.products) == {
        Ceiling(device="cpu", precision="fp32", engine="torch", ops_per_s=3e9),
        Ceiling(device="cpu", precision="int8", engine="onnxruntime", ops_per_s=9e9),
        Ceiling(device="cpu", precision="bf16", engine="torch", ops_per_s=1e9),
        Ceiling(device="cuda", precision="fp32", engine="onnxruntime", ops_per_s=3e12),
        Ceiling(device="cuda", precision="fp16", engine="torch", ops_per_s=6e12),
    }


def test_failed_measurements_are_logged_and_the_rest_is_kept(pretend: Any, caplog: pytest.LogCaptureFixture) -> None:
    crash = Answer(facts={}, failure="crashed with SIGILL", log="")
    asked = pretend({("torch", "cpu"): crash, ("onnxruntime", "cpu"): facts("cpu", None, "int8: not here", fp32=1.0)})
    with caplog.at_level(logging.WARNING, "benchmarks"):
        found = measure_ceilings(3, ["cpu"])
    assert ("torch", "cuda") not in asked
    assert found.products == (Ceiling(device="cpu", precision="fp32", engine="onnxruntime", ops_per_s=1.0),)
    assert caplog.messages == [
        "cannot measure the ceiling of onnxruntime on cpu: int8: not here",
        "cannot measure the ceiling of torch on cpu: crashed with SIGILL",
    ]


@pytest.mark.parametrize(
    ("engine", "precisions"),
    [("numpy", set()), ("onnxruntime", {"fp32", "int8"}), ("torch", {"fp32", "bf16", "fp16", "int8"})],
)
def test_every_engine_is_measured_on_the_cpu(engine: str, precisions: set[str]) -> None:
    small = CeilingOptions(smallest_side=32, largest_side=64, product_s=0.0, read_s=0.0, read_bytes=2**16)
    answer = measure_engine(ENGINES[engine]("cpu", 1), small)
    assert answer["device"] == "cpu"
    assert answer["problems"] == []
    assert set(answer["products"]) == precisions
    assert all(rate > 0 for rate in answer["products"].values())
    assert (answer["read_bytes_per_s"] is None) == (engine == "onnxruntime")


class Clockwork:
    """Engine whose calls take fixed times on its own clock."""

    device: Device = "cpu"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")

    def __init__(self) -> None:
        self.now = 0.0
        self.sides: list[int] = []

    def product(self, precision: Precision, side: int) -> Call:
        if precision == "fp16":
            raise RuntimeError("no such\nkernel")
        self.sides.append(side)
        return self._taking([2 * side**3 / rate for rate in (1e9, 4e9, 8e9, 2e9)])

    def reader(self, size_bytes: int) -> tuple[Call, int]:
        return self._taking([9.0, 0.5, 0.25, 0.5]), 1000

    def _taking(self, seconds: list[float]) -> Call:
        turns = iter(seconds * 10_000)

        def call() -> None:
            self.now += next(turns)

        return call


def test_a_ceiling_is_the_fastest_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clockwork()
    monkeypatch.setattr(time, "perf_counter", lambda: engine.now)
    answer = measure_engine(engine, CeilingOptions())
    assert answer["products"] == {"fp32": pytest.approx(8e9)}
    assert engine.sides == [256, 512, 1024], "a call takes 0.27 s at 1024, which is long enough"
    assert answer["read_bytes_per_s"] == pytest.approx(1000 / 0.25)
    assert answer["problems"] == ["fp16: no such kernel"]


def test_an_unusable_provider_is_a_problem_in_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    worker.main(["openvino", "openvino", "1"])
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert "the provider openvino is not in the installed package" in problem
    with pytest.raises(ProviderError):
        OnnxRuntime("cuda", 1)


def test_integer_products_are_those_of_floats() -> None:
    ort = import_onnxruntime()
    left, weights = np.array([[100, 200], [130, 128]], np.uint8), np.array([[1, -2], [3, 4]], np.int8)
    expected = (left.astype(int) - 128) @ weights.astype(int)
    session = ort.InferenceSession(integer_product(left, weights), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": left})[0], expected)
    session = ort.InferenceSession(dequantized_product(left, weights), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": left})[0], 128 + np.round(expected * 1e-4).astype(int))


def test_reading_covers_the_buffer_once_for_each_pass() -> None:
    call, size_bytes = Numpy("cpu", 3).reader(1200)
    assert size_bytes == READ_PASSES * 1200
    assert call() == [[1.0] * READ_PASSES] * 3
    total, size_bytes = Torch("cpu", 1).reader(1200)
    assert (size_bytes, float(total())) == (1200, 300.0)  # type: ignore[arg-type]
