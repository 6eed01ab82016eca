"""Measure the roofline of this machine with the libraries that the contenders use."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.results.schema import Ceiling, Ceilings, Device, Precision
from runtime.machine.child_process import listen
from runtime.machine.cuda_driver import gpu_names

_LOG = logging.getLogger("benchmarks")
_TIMEOUT_S = 120.0


def measure_ceilings(threads: int, providers: Sequence[str]) -> Ceilings:
    """Measure large matrix products of each precision, and memory bandwidth. It takes about half a minute.

    A ceiling is a maximum: the best repetition of the best engine. Each engine runs in its own process, so that its
    threads do not disturb another engine. A failed measurement is logged as a warning and left out.

    A convolution can exceed the ceiling of its precision, because Winograd's algorithm needs fewer multiplications
    than are counted.

    ``providers`` are execution providers of onnxruntime that work here. The ceilings of cuda also apply to tensorrt.
    """
    products: dict[tuple[Device, Precision], Ceiling] = {}
    reads: dict[str, float] = {}
    for engine, place in _plan(providers):
        facts = _ask(engine, place, threads)
        device = facts["device"]
        for precision, rate in facts["products"].items():
            ceiling = Ceiling(device=device, precision=precision, engine=engine, ops_per_s=rate)
            best = products.setdefault((device, precision), ceiling)
            products[device, precision] = max(best, ceiling, key=lambda each: each.ops_per_s)
        if facts["read_bytes_per_s"]:
            reads[device] = max(facts["read_bytes_per_s"], reads.get(device, 0.0))
    return Ceilings(products=tuple(products.values()), read_bytes_per_s=reads)


def _plan(providers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each engine with its provider or device."""
    yield "numpy", "cpu"
    for provider in providers:
        if provider != "tensorrt":
            yield ("openvino" if provider == "openvino" else "onnxruntime"), provider
    if importlib.util.find_spec("torch"):
        yield "torch", "cpu"
        if gpu_names():
            yield "torch", "cuda"


def _ask(engine: str, place: str, threads: int) -> dict[str, Any]:
    """Return the answer of :mod:`benchmarks.ceilings.worker`, which is empty if the worker fails."""
    command = [sys.executable, "-m", "benchmarks.ceilings.worker", engine, place, str(threads)]
    answer = listen(command, timeout_s=_TIMEOUT_S)
    problems = [answer.failure] if answer.failure else answer.facts["problems"]
    for problem in problems:
        _LOG.warning("cannot measure the ceiling of %s on %s: %s", engine, place, problem)
    return answer.facts or {"device": place, "products": {}, "read_bytes_per_s": None}
