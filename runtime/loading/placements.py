"""Find out where the nodes of an artifact's graphs run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.inference.pipeline import Pipeline
from runtime.loading.golden_file import read_golden
from runtime.loading.load import load
from runtime.preprocess.item import UnusableItemError
from runtime.session.placement import Placement, count_placement


def find_placements(path: str | os.PathLike[str], **options: Any) -> dict[TowerName, Placement]:
    """Run each tower on a batch of golden items under a profiler, and return where its nodes ran.

    ``options`` are those of :func:`runtime.load`, without workers.

    Raises:
        EmbeddingBackbonesError: As for :func:`runtime.load`.
    """
    model, folder = load(path, **options), Path(path)
    if not isinstance(model.backend, Pipeline):
        raise UsageError("placement needs a model in this process; leave workers and device_ids out")
    found = {}
    for name, tower in model.backend.towers.items():
        items, _ = read_golden(folder, model.manifest, name)
        rows = [row for row in tower.prepare(items) if not isinstance(row, UnusableItemError)]
        batch = tower.plan_batches(rows)[0]
        events = tower.session.trace(tower.collate([rows[at] for at in batch]))
        found[name] = count_placement(events, model.provider)
    return found
