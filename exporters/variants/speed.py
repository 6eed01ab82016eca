"""How many times as fast one graph is as another, on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from runtime.inference.tower import LoadedTower, Row, group_key

_ROUNDS = 15
_SECONDS = 20.0  # of measuring at most, but for three rounds


def measure_speedup(before: LoadedTower, after: LoadedTower, rows: Sequence[Row]) -> float:
    """Returns the median of the ratio of both times, taken in turns so that drift hits both.

    Args:
        before: The graph that is compared with.
        after: The other one. Neither lets its threads spin, which would slow the other down.
        rows: What both run as one batch.
    """
    rows = [row for row in rows if group_key(row) == group_key(rows[0])]
    ratios: list[float] = []
    start = time.perf_counter()
    for tower in (before, after):
        tower.embed(rows)
    while len(ratios) < _ROUNDS and (len(ratios) < 3 or time.perf_counter() - start < _SECONDS):
        ratios.append(_time(before, rows) / _time(after, rows))
    return median(ratios)


def _time(tower: LoadedTower, rows: Sequence[Row]) -> float:
    start = time.perf_counter()
    tower.embed(rows)
    return time.perf_counter() - start
