"""Batches of arrays are read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.measure.arrays_file import read_arrays, write_arrays


def test_arrays_are_read_by_batch_and_name(tmp_path: Path) -> None:
    batches = [{"a": np.arange(number), "b/c": np.ones(1)} for number in range(12)]
    write_arrays(tmp_path / "x.npz", batches)
    found = read_arrays(tmp_path / "x.npz")
    assert len(found) == 12
    for number, batch in enumerate(found):
        assert batch.keys() == {"a", "b/c"}
        np.testing.assert_array_equal(batch["a"], np.arange(number))
