"""Warn at the start of a job if the model and its batches may not fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from runtime.artifact.manifest import Manifest, PointCloudPreprocessing, TextPreprocessing, Tower, TowerName
from runtime.errors import IntegrityError
from runtime.inference.memory import estimate_memory
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.machine.limits import examine_memory

_LOG = logging.getLogger("runtime")
_TEXT_LENGTH = 512  # tokens of the longest texts to expect; those of models that take 8192 are mostly shorter


def warn_of_memory(
    folder: Path,
    manifest: Manifest,
    tower: TowerName | None,
    *,
    batch_size: int | None,
    limit: int | None,
    workers: int,
    concurrent_batches: int,
) -> None:
    """Log a warning if the memory that is left cannot hold ``workers`` models with their batches on the CPU provider.

    The kernel kills a process that exceeds its memory, and the process cannot say why.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        tower: The only tower to load; ``None`` for all.
        batch_size: Number of items of a batch; ``None`` for the default.
        limit: ``memory_limit_bytes`` of a batch, if any; batches then take turns.
        workers: Number of processes.
        concurrent_batches: Number of batches that run side by side in each process.
    """
    left = examine_memory().available
    towers = manifest.select_towers(tower)
    if not all((folder / each.graph).is_file() for each in towers.values()):
        return  # loading says what is wrong
    weights = sum(_weight_bytes(manifest, each) for each in towers.values())
    try:
        batch = max((_batch_bytes(folder, towers, name, batch_size) for name in towers), default=0)
    except (IntegrityError, OSError):
        return  # loading says what is wrong
    side_by_side = 1 if limit else concurrent_batches
    batches = min(batch, limit or batch) * side_by_side
    needed = workers * max(2 * weights, weights + batches)  # a graph is in memory twice while it is loaded
    if left is not None and needed > left:
        ways = ["fewer --workers"] * (workers > 1)
        if batches > weights:
            ways += ["--concurrent-batches 1"] * (side_by_side > 1)
            ways += ["a smaller --batch-size", "--provider cpu --provider-option memory_limit_bytes=BYTES"]
        _LOG.warning(
            "the model and its batches may take %.2f GB in %s, but %.2f GB of memory are left, and the "
            "kernel kills a job that takes more; use %s",
            needed / 1e9,
            "one process" if workers == 1 else f"{workers} processes",
            left / 1e9,
            " or ".join(ways or ["a smaller model, or allow more memory"]),
        )


def _weight_bytes(manifest: Manifest, tower: Tower) -> int:
    return sum(manifest.files[name].size_bytes for name in (tower.graph, tower.external_data) if name)


def _batch_bytes(folder: Path, towers: Mapping[TowerName, Tower], name: TowerName, batch_size: int | None) -> int:
    recipe, length = towers[name].preprocessing, 1
    if isinstance(recipe, TextPreprocessing):
        length = min(recipe.max_length, _TEXT_LENGTH)
    elif isinstance(recipe, PointCloudPreprocessing):
        length = recipe.num_points
    count = batch_size or max(1, DEFAULT_BATCH_SIZES[name, "cpu"].budget // length)
    return estimate_memory(folder, towers[name]).batch_bytes(count, length)
