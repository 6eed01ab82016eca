"""Estimate the memory that a batch takes on the CPU provider, and keep batches within a limit.

The figures are upper bounds of the peaks of single runs by onnxruntime 1.31 on a CPU with AVX2. MiniLM took 83 bytes
for each token and channel, and 9 for each pair of tokens and 32 channels; its fused and 8-bit graphs took less.
ResNet50 took 190 bytes for each pixel. PointNet++ took 34 MB for a cloud of up to 4,096 points. Larger clouds took
8,400 bytes for each point. BERT, T5, CLIP and ViT were not measured.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.artifact.graph_layout import GraphLayout, read_layout
from runtime.artifact.manifest import PointCloudPreprocessing, TextPreprocessing, Tower

_BATCH_BYTES = 4 * 10**6  # of any batch, besides its items
_BYTES_PER_TOKEN = 128  # for each channel of the width: the feed-forward layer and its activation
_BYTES_PER_PAIR = 12 / 32  # for each channel: three copies of the attention scores, by heads of 32 channels
_BYTES_PER_PIXEL = 1536  # of a CNN, or of a transformer whose first layers have patches of few pixels
_SMALLEST_PATCH = 8  # of a transformer whose layers all have the same number of tokens
_BYTES_PER_CLOUD = 48 * 10**6
_BYTES_PER_POINT = 12_000  # distances to 512 centroids
one_batch_at_a_time = threading.Lock()  # of the towers with a limit


@dataclass(frozen=True, kw_only=True)
class ItemMemory:
    """An upper estimate of the bytes that an item takes in a batch, by its length in tokens or points."""

    fixed: float = 0
    per_length: float = 0
    per_pair: float = 0

    def batch_bytes(self, count: int, length: int) -> int:
        """Return the bytes of a batch of ``count`` items, padded to ``length``."""
        return _BATCH_BYTES + int(count * (self.fixed + self.per_length * length + self.per_pair * length**2))

    def largest_batch(self, limit: int, length: int) -> int:
        """Return the number of items of ``length`` whose batch stays within ``limit`` bytes."""
        return max(0, (limit - _BATCH_BYTES) // max(1, self.batch_bytes(1, length) - _BATCH_BYTES))


def estimate_memory(folder: Path, tower: Tower) -> ItemMemory:
    """Return an upper estimate for the items of ``tower`` in the artifact ``folder``."""
    recipe = tower.preprocessing
    if isinstance(recipe, PointCloudPreprocessing):
        return ItemMemory(fixed=_BYTES_PER_CLOUD, per_length=_BYTES_PER_POINT)
    layout = read_layout(folder / tower.graph)
    if isinstance(recipe, TextPreprocessing):
        return _sequence_memory(layout)
    if not layout.attention or layout.patch < _SMALLEST_PATCH:
        return ItemMemory(fixed=_BYTES_PER_PIXEL * recipe.crop_size**2)
    tokens = (recipe.crop_size // layout.patch) ** 2 + 1
    return ItemMemory(fixed=_sequence_memory(layout).batch_bytes(1, tokens))


def _sequence_memory(layout: GraphLayout) -> ItemMemory:
    per_pair = _BYTES_PER_PAIR * layout.width if layout.attention else 0
    return ItemMemory(per_length=_BYTES_PER_TOKEN * layout.width, per_pair=per_pair)


@dataclass(frozen=True)
class MemoryLimit:
    """A limit in bytes on the batches of items that take ``item``."""

    limit: int
    item: ItemMemory

    def find_obstacle(self, length: int) -> str | None:
        """Return why an item of ``length`` tokens or points cannot be embedded; ``None`` if it can."""
        if self.item.largest_batch(self.limit, length):
            return None
        return (
            f"it may take {self.item.batch_bytes(1, length) / 1e6:.0f} MB of memory by itself, and memory_limit_bytes "
            f"allows {self.limit / 1e6:.0f} MB; raise the limit or leave the item out"
        )

    def split(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Split a batch of items of these lengths into batches within the limit."""
        start = 0
        while start < len(lengths):
            stop = start + max(1, self.item.largest_batch(self.limit, max(lengths[start:])))
            yield slice(start, stop)
            start = stop


def _unlock() -> None:
    global one_batch_at_a_time  # a thread of the parent may hold the lock
    one_batch_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_unlock)
