"""A process in which one engine does the most it can: ``ENGINE PLACE THREADS``, answered by a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.ceilings.engines import ENGINES, Call, Engine
from benchmarks.results.schema import Precision
from runtime.errors import EmbeddingBackbonesError, one_line
from runtime.machine.limits import examine_memory

_SMALLEST_SIDE, _LARGEST_SIDE = 256, 8192
_LONG_ENOUGH_S = 0.1  # the next larger product takes 8 times as long
_REPEAT_PRODUCT_S, _REPEAT_READ_S = 0.3, 1.0
_MOST_READ_BYTES = 2**30  # far more than caches hold


def main(arguments: Sequence[str]) -> None:
    """Answers: operations a second by precision, bytes a second, and what could not be measured."""
    name, place, threads = arguments
    try:
        answer = _measure(ENGINES[name](place, int(threads)))
    except EmbeddingBackbonesError as exc:
        answer = {"device": place, "products": {}, "read_bytes_per_s": None, "problems": [str(exc)]}
    print(f"\n{json.dumps(answer)}")


def _measure(engine: Engine) -> dict[str, Any]:
    products: dict[str, float] = {}
    problems: list[str] = []
    for precision in engine.precisions:
        try:
            products[precision] = _reach(engine, precision)
        except Exception as exc:  # noqa: BLE001  engines raise what they like for what they cannot do
            problems.append(f"{precision}: {one_line(exc)}")
    return {
        "device": engine.device,
        "products": products,
        "read_bytes_per_s": _read(engine),
        "problems": problems,
    }


def _reach(engine: Engine, precision: Precision) -> float:
    """Returns the most operations a second, of products that grow until one takes long: some precisions are slow."""
    side, seconds, most = _SMALLEST_SIDE, 0.0, 0.0
    while seconds < _LONG_ENOUGH_S and side <= _LARGEST_SIDE:
        seconds = _fastest(engine.product(precision, side), _REPEAT_PRODUCT_S)
        most = max(most, 2 * side**3 / seconds)
        side *= 2
    return most


def _read(engine: Engine) -> float | None:
    """Returns bytes a second of reading a buffer that leaves most of the memory to others."""
    memory = examine_memory()
    free = min(size for size in (memory.available, memory.limit, 4 * _MOST_READ_BYTES) if size)
    reader = engine.reader(free // 4)
    if reader is None:
        return None
    call, size_bytes = reader
    return size_bytes / _fastest(call, _REPEAT_READ_S)


def _fastest(call: Call, repeat_s: float) -> float:
    """Returns the seconds of the fastest call, after one to warm up, of as many as fit into ``repeat_s``."""
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
