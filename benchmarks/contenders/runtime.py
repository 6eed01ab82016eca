"""Run each graph of an artifact with this project's runtime, on each active execution provider."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import runtime
from benchmarks.contenders.protocol import Contender, Setup, Target, usable
from benchmarks.results.schema import Precision, Skipped
from runtime.array_types import Array, Feeds
from runtime.artifact.manifest import ImagePreprocessing, Tower, TowerName
from runtime.artifact.variants import VariantName
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import LoadedTower, Row
from runtime.inference.truncation import without_truncation_warning
from runtime.machine.cpu import bf16_units
from runtime.preprocess.image import load_image
from runtime.session.provider_options import OpenVinoOptions
from runtime.session.providers import find_provider
from runtime.session.variant_selection import find_variant_obstacle

PRECISIONS: Mapping[VariantName, Precision] = {
    "fp32": "fp32",
    "optimized": "fp32",
    "fp16": "fp16",
    "int8": "int8",
    "compact": "int8",
}
VARIANTS = (*PRECISIONS, "bf16")


def find(target: Target) -> tuple[list[Setup], list[Skipped]]:
    """Return a setup for each graph and provider, and the reasons for missing ones."""
    setups: list[Setup] = []
    skipped: list[Skipped] = []
    variants = target.manifest.towers[target.tower].variants
    for name in target.providers:
        for variant in ("fp32", *variants):
            obstacle = find_variant_obstacle(variants[variant], find_provider(name)) if variant in variants else None
            case = f"{target.manifest.name}, {target.tower}: {variant} on {name}"
            if obstacle:
                skipped.append(Skipped(name=case, reason=obstacle))
            else:
                setups.append(_setup(target, variant, name, PRECISIONS[variant]))
        if name == "openvino" and bf16_units():
            setups.append(_setup(target, "bf16", name, "bf16"))
    return setups, skipped


def baseline_setup(target: Target) -> Setup:
    """Return the setup of the fp32 graph on the CPU."""
    return _setup(target, "fp32", "cpu", "fp32")


def _setup(target: Target, variant: str, provider: str, precision: Precision) -> Setup:
    return Setup(
        contender="runtime",
        variant=variant,
        provider=provider,
        precision=precision,
        stages=("graph", "end_to_end"),
        model=str(target.folder.absolute()),
        tower=target.tower,
        python=target.pythons.get(provider, sys.executable),
    )


def load(setup: Setup, threads: int, scratch: Path) -> Contender:
    """Load the artifact. Its hashes were checked before the benchmark began."""
    openvino = OpenVinoOptions(dtype="bf16" if setup.precision == "bf16" else "fp32")
    model = runtime.load(
        setup.model,
        provider=setup.provider,
        provider_options=openvino if setup.provider == "openvino" else None,
        threads=threads,
        variant="fp32" if setup.variant == "bf16" else setup.variant,
        tower=setup.tower,
        check_hashes=False,
    )
    return _Runtime(model, setup.tower)


class _Runtime:
    def __init__(self, model: runtime.Embedder, tower: TowerName) -> None:
        backend = model.backend
        if not isinstance(backend, Pipeline):
            raise TypeError("only a pipeline in this process has a graph to run alone")
        self._model, self._name = model, tower
        self._tower, self._record = backend.towers[tower], model.manifest.towers[tower]

    def embed_arrays(self, arrays: Feeds) -> Array:
        return self._tower.session.run(arrays)

    def embed_items(self, items: Sequence[Any]) -> Array:
        with without_truncation_warning():
            return self._model.embed(items, tower=self._name)

    def time_steps(self, items: Sequence[Any]) -> dict[str, float]:
        seconds, rows = _prepare(self._tower, self._record, items)
        started = time.perf_counter()
        for batch in self._tower.plan_batches(rows):
            self._tower.embed([rows[at] for at in batch])
        return seconds | {"infer": time.perf_counter() - started}


def _prepare(tower: LoadedTower, record: Tower, items: Sequence[Any]) -> tuple[dict[str, float], list[Row]]:
    """Return the seconds of each preprocessing step, and the rows of the graph's input."""
    started = time.perf_counter()
    if not isinstance(record.preprocessing, ImagePreprocessing):
        rows = usable(tower.prepare(items))
        step = "tokenize" if record.preprocessing.kind == "text" else "read and sample"
        return {step: time.perf_counter() - started}, rows
    images = [load_image(item, record.preprocessing.alpha) for item in items]
    decoded = time.perf_counter()
    rows = usable(tower.prepare(images))
    return {"decode": decoded - started, "resize": time.perf_counter() - decoded}, rows
