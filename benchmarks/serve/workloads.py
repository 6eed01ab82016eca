"""Make the items that are sent: short, long and mixed texts, images, or the user's own items."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchmarks.measure.workload import Items, load_items, load_own_items
from benchmarks.results.schema import describe_sizes
from benchmarks.serve.interfaces import Item
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError

WorkloadName = Literal["short", "mixed", "long", "images", "own"]
WORKLOADS: tuple[WorkloadName, ...] = get_args(WorkloadName)
_COUNT = 256  # different items, so that no cache of the server answers for its model
_SIZES: dict[str, tuple[int, int]] = {"short": (6, 14), "mixed": (6, 230), "long": (200, 230)}  # below 256 tokens
_PIECE = re.compile(r"[^\W\d_]{1,5}|\d{1,2}|[^\w\s]|_")  # tokenizers rarely cut words into more pieces than this


@dataclass(frozen=True, kw_only=True)
class ServeWorkload:
    """Items to send."""

    name: str
    source: str  # their origin and their sizes, for the report.
    items: tuple[Item, ...]
    kind: TowerName = "text"

    def batches(self, size: int) -> list[tuple[int, ...]]:
        """Return the positions of the items of each request; every item is in as many requests as the others."""
        number = len(self.items) // math.gcd(len(self.items), size)
        endless = itertools.cycle(range(len(self.items)))
        return [tuple(itertools.islice(endless, size)) for _ in range(number)]


def make_workload(name: WorkloadName, own: tuple[TowerName, Path] | None, scratch: Path) -> ServeWorkload:
    """Return the items of a workload.

    Args:
        name: The workload.
        own: Kind and file or folder of the user's items, for the workload ``own``.
        scratch: Folder to which built-in images are written.

    Raises:
        UsageError: The user's items are missing, too few, or cannot be used.
    """
    if name in _SIZES:
        corpus = load_items("text", scratch)
        texts = tuple(cut_texts(corpus.items, *_SIZES[name], _COUNT))
        sizes = describe_sizes([*map(len, texts)], are_texts=True)
        return ServeWorkload(name=name, source=f"{sizes}, cut from {corpus.source}", items=texts)
    if name == "images":
        return _workload(name, "image", load_items("image", scratch))
    if own is None:
        raise UsageError("the workload own needs --items")
    kind, path = own
    return _workload(name, kind, load_own_items(kind, path))


def _workload(name: str, kind: TowerName, found: Items) -> ServeWorkload:
    source = f"{describe_sizes(found.sizes, are_texts=found.are_texts)}, from {found.source}"
    items = found.items if found.are_texts else tuple(map(Path, found.items))
    return ServeWorkload(name=name, kind=kind, source=source, items=items)


def cut_texts(corpus: Sequence[str], least: int, most: int, count: int) -> Iterator[str]:
    """Yield ``count`` texts of ``least`` to ``most`` pieces of words. Their lengths are uniform on a log scale."""
    words = itertools.cycle(word for text in corpus for word in text.split())
    sizes = np.exp(np.random.default_rng(0).uniform(np.log(least), np.log(most + 1), count)).astype(int)
    for size in sizes:
        text, left = [next(words)], int(size)
        while (left := left - len(_PIECE.findall(text[-1]))) > 0:
            text.append(next(words))
        yield " ".join(text)
