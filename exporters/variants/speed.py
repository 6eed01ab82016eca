"""Measure the speed of one graph relative to another on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from runtime.inference.tower import LoadedTower, Row, group_key

_ROUNDS = 15
_MIN_ROUNDS = 3
_BUDGET_S = 20.0  # no new round after this time, except for the minimum


def measure_speedup(before: LoadedTower, after: LoadedTower, rows: Sequence[Row]) -> float:
    """Return the median ratio of the two run times, measured in turns so that drift affects both.

    Both graphs run the rows of the first row's length as one batch. Their threads may not spin, because that would slow
    the other graph down.
    """
    rows = [row for row in rows if group_key(row) == group_key(rows[0])]
    ratios: list[float] = []
    start = time.perf_counter()
    for tower in (before, after):
        tower.embed(rows)
    while len(ratios) < _ROUNDS and (len(ratios) < _MIN_ROUNDS or time.perf_counter() - start < _BUDGET_S):
        ratios.append(_time(before, rows) / _time(after, rows))
    return median(ratios)


def _time(tower: LoadedTower, rows: Sequence[Row]) -> float:
    start = time.perf_counter()
    tower.embed(rows)
    return time.perf_counter() - start
