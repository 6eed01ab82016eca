"""Store batches of a graph's inputs in a .npz file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from runtime.array_types import Array


def write_arrays(path: Path, batches: Sequence[dict[str, Array]]) -> None:
    """Write batches of named arrays."""
    named = {f"{number}/{name}": array for number, arrays in enumerate(batches) for name, array in arrays.items()}
    np.savez(path, allow_pickle=False, **named)


def read_arrays(path: Path) -> list[dict[str, Array]]:
    """Return the batches that :func:`write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        numbers = takewhile(lambda number: any(name.startswith(f"{number}/") for name in file.files), count())
        return [
            {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{number}/")}
            for number in numbers
        ]
