"""Measure the ceilings of one engine in its own process: ``ENGINE PLACE THREADS``. It prints a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ceilings.engines import ENGINES, Call, Engine
from benchmarks.results.schema import Precision
from runtime.errors import EmbeddingBackbonesError, one_line
from runtime.machine.limits import examine_memory

_LEAST_BYTES = 1 << 24  # of the memory that counts as free, also in a full container
_LONG_ENOUGH_S = 0.1  # the next larger product takes 8 times as long


@dataclass(frozen=True, kw_only=True)
class CeilingOptions:
    """Options of the measurement."""

    smallest_side: int = 256  # side of the first square matrices.
    largest_side: int = 8192  # side of the largest ones.
    product_s: float = 0.3  # seconds for repetitions of a product.
    read_s: float = 1.0  # seconds for repetitions of reading.
    read_bytes: int = 2**30  # maximum size of the buffer to read, far more than caches hold.


def main(arguments: Sequence[str]) -> None:
    """Print operations per second by precision, bytes per second, and the problems."""
    name, place, threads = arguments
    try:
        answer = measure_engine(ENGINES[name](place, int(threads)), CeilingOptions())
    except EmbeddingBackbonesError as exc:
        answer = {"device": place, "products": {}, "read_bytes_per_s": None, "problems": [str(exc)]}
    print(f"\n{json.dumps(answer)}")


def measure_engine(engine: Engine, options: CeilingOptions) -> dict[str, Any]:
    """Return the rates of ``engine`` as a JSON record."""
    products: dict[str, float] = {}
    problems: list[str] = []
    for precision in engine.precisions:
        try:
            products[precision] = _ops_per_s(engine, precision, options)
        except Exception as exc:  # noqa: BLE001  each engine raises its own errors for an unsupported precision
            problems.append(f"{precision}: {one_line(exc)}")
    return {
        "device": engine.device,
        "products": products,
        "read_bytes_per_s": _read_bytes_per_s(engine, options),
        "problems": problems,
    }


def _ops_per_s(engine: Engine, precision: Precision, options: CeilingOptions) -> float:
    """Return the highest rate of products that grow until one takes long, because some precisions are slow."""
    side, seconds, best = options.smallest_side, 0.0, 0.0
    while seconds < _LONG_ENOUGH_S and side <= options.largest_side:
        seconds = _fastest(engine.product(precision, side), options.product_s)
        best = max(best, 2 * side**3 / seconds)
        side *= 2
    return best


def _read_bytes_per_s(engine: Engine, options: CeilingOptions) -> float | None:
    """Return the rate of reading a buffer of at most a quarter of the free memory."""
    available, wanted = examine_memory().available, 4 * options.read_bytes
    free = wanted if available is None else max(_LEAST_BYTES, min(available, wanted))
    reader = engine.reader(free // 4)
    if reader is None:
        return None
    call, size_bytes = reader
    return size_bytes / _fastest(call, options.read_s)


def _fastest(call: Call, repeat_s: float) -> float:
    """Return the seconds of the fastest call within ``repeat_s``, after one call to warm up."""
    call()
    times = [_time(call)]
    while sum(times) < repeat_s:
        times.append(_time(call))
    return min(times)


def _time(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1:])
