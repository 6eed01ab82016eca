"""This project's runtime: each of an artifact's graphs on each execution provider that is active."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import runtime
from benchmarks.contenders.protocol import Array, Contender, Subject, Way, usable
from benchmarks.results.schema import Precision, Skipped
from runtime.artifact.manifest import ImagePreprocessing, Tower, TowerName
from runtime.inference.batching import plan_batches
from runtime.inference.embedder import without_truncation_warning
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import LoadedTower, Row, group_key, row_cost
from runtime.machine.cpu import bf16_units
from runtime.preprocess.image import load_image
from runtime.session.provider_options import OpenVinoOptions
from runtime.session.providers import find_provider
from runtime.session.variant_selection import find_variant_obstacle

_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "optimized": "fp32", "fp16": "fp16", "int8": "int8"}


def find(subject: Subject) -> tuple[list[Way], list[Skipped]]:
    """Returns the ways of the artifact's graphs on each provider, and which of them are not for it."""
    ways: list[Way] = []
    skipped: list[Skipped] = []
    variants = subject.manifest.towers[subject.tower].variants
    for name in subject.providers:
        for variant in ("fp32", *variants):
            obstacle = find_variant_obstacle(variants[variant], find_provider(name)) if variant in variants else None
            if obstacle:
                skipped.append(
                    Skipped(name=f"{subject.manifest.name}, {subject.tower}: {variant} on {name}", reason=obstacle)
                )
            else:
                ways.append(_way(subject, variant, name, _PRECISIONS[variant]))
        if name == "openvino" and bf16_units():
            ways.append(_way(subject, "bf16", name, "bf16"))
    return ways, skipped


def plain_way(subject: Subject) -> Way:
    """Returns the way of the graph as it was exported, on the CPU."""
    return _way(subject, "fp32", "cpu", "fp32")


def _way(subject: Subject, variant: str, provider: str, precision: Precision) -> Way:
    return Way(
        contender="runtime",
        variant=variant,
        provider=provider,
        precision=precision,
        stages=("graph", "end_to_end"),
        model=str(subject.folder.absolute()),
        tower=subject.tower,
        python=subject.pythons.get(provider, sys.executable),
    )


def load(way: Way, threads: int, scratch: Path) -> Contender:
    """Loads what ``way`` names, with hashes that were checked before the benchmark began."""
    options = None
    if way.provider == "openvino":
        options = OpenVinoOptions(dtype="bf16" if way.precision == "bf16" else "fp32")
    model = runtime.load(
        way.model,
        provider=way.provider,
        provider_options=options,
        threads=threads,
        variant="fp32" if way.variant == "bf16" else way.variant,
        tower=way.tower,
        check_hashes=False,
    )
    return _Runtime(model, way.tower)


class _Runtime:
    def __init__(self, model: runtime.Embedder, tower: TowerName) -> None:
        backend = model.backend
        if not isinstance(backend, Pipeline):
            raise TypeError("only a pipeline in this process has a graph to run alone")
        self._model, self._name = model, tower
        self._tower, self._record = backend.towers[tower], model.manifest.towers[tower]

    def embed_arrays(self, arrays: Mapping[str, Array]) -> Array:
        return self._tower.session.run(arrays)

    def embed_items(self, items: Sequence[Any]) -> Array:
        with without_truncation_warning():
            return self._model.embed(items, tower=self._name)

    def take_apart(self, items: Sequence[Any]) -> dict[str, float]:
        seconds, rows = _prepare(self._tower, self._record, items)
        started = time.perf_counter()
        for batch in _batches(self._tower, rows):
            self._tower.embed(batch)
        return seconds | {"infer": time.perf_counter() - started}


def _prepare(tower: LoadedTower, record: Tower, items: Sequence[Any]) -> tuple[dict[str, float], list[Row]]:
    """Returns the seconds of each step from ``items`` to rows of the graph's input, and those rows."""
    started = time.perf_counter()
    if not isinstance(record.preprocessing, ImagePreprocessing):
        rows = usable(tower.prepare(items))
        step = "tokenize" if record.preprocessing.kind == "text" else "read and sample"
        return {step: time.perf_counter() - started}, rows
    images = [load_image(item) for item in items]
    decoded = time.perf_counter()
    rows = usable(tower.prepare(images))
    return {"decode": decoded - started, "resize": time.perf_counter() - decoded}, rows


def _batches(tower: LoadedTower, rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(group_key(row), []).append(row)
    return [
        [group[at] for at in batch]
        for group in groups.values()
        for batch in plan_batches([row_cost(row) for row in group], tower.limit(None))
    ]
