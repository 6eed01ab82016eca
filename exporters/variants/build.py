"""Adds variants to an artifact: other graphs for its towers, each made by a pass and let through by the gate."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exporters.artifact_writer import README_FILE, new_artifact, record_files, write_manifest, write_readme, writing
from exporters.calibration.activations import Samples
from exporters.calibration.dataset import Corpus, load_corpus
from exporters.errors import FloorError, GraphError, VariantError
from exporters.graph.statistics import Census, take_census
from exporters.progress import Stage, silent
from exporters.samples.photo_variations import vary_exposure
from exporters.samples.random_words import random_texts
from exporters.variants.gate import Gate
from exporters.variants.options import DEFAULT_ITEMS, VariantOptions
from exporters.variants.recipes import MAKERS, Made, Order
from exporters.variants.speed import measure_speedup
from runtime.artifact.describe import describe_manifest
from runtime.artifact.manifest import ImagePreprocessing, Manifest, TextPreprocessing, Tower, TowerName
from runtime.artifact.reader import check_files, read_manifest
from runtime.artifact.variants import Calibration, Floors, Precision, Variant, VariantName
from runtime.errors import UsageError
from runtime.inference.batching import BatchLimit, plan_batches
from runtime.inference.tower import LoadedTower, Row, group_key, row_cost
from runtime.loading.golden import read_golden
from runtime.preprocess.item import UnusableItemError
from runtime.session.provider_options import CpuOptions
from runtime.session.providers import check_packages, installed_packages
from runtime.session.session import SessionOptions

NAMES: Mapping[Precision, VariantName] = {"fp32": "optimized", "fp16": "fp16", "int8": "int8"}
# Items of one sample, and their tokens or pixels. The calibrator keeps every tensor of a sample: gigabytes for eight
# texts of 512 tokens, or for one image of 600 x 600 in EfficientNet-B7.
_SAMPLE = 8
_BUDGETS: Mapping[TowerName, int | None] = {"text": 1024, "image": _SAMPLE * 224 * 224, "mesh": None}
# Of random words for each real text: one changed little for MiniLM's int8 of "a photo of a ...", four brought 0.998.
_WIDER = 4
_IMAGE_AXES = 3  # [height, width, 3]
# What is aimed at, as a share of the distance from 1 that is allowed: items that it was not made from come out worse.
_SHARES: Mapping[Precision, float] = {"fp32": 1.0, "fp16": 1.0, "int8": 0.7}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one variant of one tower.

    Attributes:
        tower: The tower.
        name: The variant's name.
        variant: Its record, ``None`` if it was not made.
        reason: Why it was not.
        failed: Whether that is a failure; it is none that there was nothing to fuse.
        before: The tower's own graph, counted.
        after: The variant's.
        speedup: How many times as fast as the tower's own graph it is on the CPU provider here; ``None`` if not for it.
    """

    tower: TowerName
    name: VariantName
    variant: Variant | None = None
    reason: str = ""
    failed: bool = False
    before: Census
    after: Census | None = None
    speedup: float | None = None


def add_variants(artifact: Path, options: VariantOptions, *, stage: Stage = silent) -> list[Outcome]:
    """Makes variants of every tower of an artifact and adds those that pass the gate; the others leave it as it was.

    Args:
        artifact: The artifact's folder.
        options: What to make.
        stage: As for :func:`exporters.export`.

    Returns:
        What became of each.

    Raises:
        VariantError: Not one of them passed.
        UsageError: An option cannot be right.
        ArtifactError: The artifact is damaged.
        DestinationError: It cannot be written.
    """
    check_packages()
    floors = {precision: options.floors(precision) for precision in options.precisions}  # before any work
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    with new_artifact(artifact, force=True) as folder:
        remade = {NAMES[precision] for precision in options.precisions}
        outcomes: list[Outcome] = []
        towers: dict[TowerName, Tower] = {}
        with writing(artifact):
            _link_files(artifact, folder, manifest, remade)
            for kind in manifest.towers:
                workshop = _Workshop(folder, manifest, kind, options, stage)
                made = [workshop.make(precision, floors[precision]) for precision in options.precisions]
                towers[kind] = _with_variants(artifact, folder, manifest.towers[kind], made)
                outcomes += made
        if all(outcome.variant is None for outcome in outcomes) and any(outcome.failed for outcome in outcomes):
            raise VariantError("; ".join(f"{each.tower} {each.name}: {each.reason}" for each in outcomes))
        with writing(artifact):
            judged = replace(manifest, towers=towers, files=record_files(folder))
            write_readme(folder, judged, describe_manifest(judged))
            write_manifest(folder, judged)
    return outcomes


def _link_files(artifact: Path, folder: Path, manifest: Manifest, remade: set[VariantName]) -> None:
    """Gives ``folder`` the files that stay as they are."""
    replaced = {
        name
        for tower in manifest.towers.values()
        for made in remade & tower.variants.keys()
        for name in tower.variants[made].files()
    }
    for name in manifest.files.keys() - replaced - {README_FILE}:
        _link(artifact / name, folder / name)


def _link(source: Path, target: Path) -> None:
    """Lets ``target`` be the same file as ``source``, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _with_variants(artifact: Path, folder: Path, tower: Tower, made: Sequence[Outcome]) -> Tower:
    """Returns ``tower`` with what was made; a variant that failed this time stays what it was."""
    variants = dict(tower.variants)
    for outcome in made:
        old = variants.get(outcome.name)
        if outcome.variant is not None:
            variants[outcome.name] = outcome.variant
        elif old is not None:
            for name in old.files():
                _link(artifact / name, folder / name)
    return replace(tower, variants=variants)


class _Workshop:
    """Makes the variants of one tower."""

    def __init__(
        self, folder: Path, manifest: Manifest, kind: TowerName, options: VariantOptions, stage: Stage
    ) -> None:
        self._folder, self._kind, self._options, self._stage = folder, kind, options, stage
        self._tower = manifest.towers[kind]
        self._loaded = self._load(self._tower.graph)
        self._corpus: Corpus = load_corpus(
            kind, options.calibration, DEFAULT_ITEMS[kind] if options.items is None else options.items
        )
        golden, _ = read_golden(folder, kind, manifest.output_dim)
        with stage(f"{kind} fp32 graph"):
            self._gate = Gate(folder, manifest, kind, [*golden, *self._corpus.held_out])
        self._before = take_census(folder / self._tower.graph, self._tower.external_data)
        self._rows = self._prepare(golden)

    def make(self, precision: Precision, floors: Floors) -> Outcome:
        """Returns a variant that has passed the gate, or why there is none."""
        name = NAMES[precision]
        outcome = Outcome(tower=self._kind, name=name, before=self._before)
        graph = f"{self._kind}.{name}.onnx"
        with self._stage(f"{self._kind} {name}"):
            try:
                return self._make(outcome, precision, graph, floors)
            except (GraphError, VariantError) as exc:
                self._discard(graph)
                return replace(outcome, reason=str(exc), failed=True)

    def _make(self, outcome: Outcome, precision: Precision, graph: str, floors: Floors) -> Outcome:
        """Aims higher, once, if the gate sees less than the samples did."""
        target = 1 - _SHARES[precision] * (1 - floors.min_cosine)
        made = MAKERS[precision](self._order(graph, target))
        try:
            return self._let_in(outcome, precision, made, graph, floors)
        except FloorError as exc:
            if made.sample_cosine is None:
                raise
            if made.sample_cosine < target:  # with as much in float as may be
                raise VariantError(f"{exc}; {made.describe_worst()}") from exc
            target = aim_higher(made.sample_cosine, exc.min_cosine, floors.min_cosine)
        self._discard(graph)
        made = MAKERS[precision](replace(self._order(graph, target), costs=made.costs))
        try:
            return self._let_in(outcome, precision, made, graph, floors)
        except FloorError as exc:
            raise VariantError(f"{exc}; {made.describe_worst()}") from exc

    def _let_in(self, outcome: Outcome, precision: Precision, made: Made, graph: str, floors: Floors) -> Outcome:
        after = take_census(self._folder / graph, made.external_data)
        if precision == "fp32" and after.nodes == self._before.nodes and not after.foreign:
            self._discard(graph)
            return replace(outcome, reason=f"nothing was fused at level {made.level}, so it is not written")
        check_loads(self._folder / graph)
        variant = Variant(
            **made.record(),
            precision=precision,
            graph=graph,
            operators=tuple(sorted(after.foreign)),
            onnxruntime=next(iter(installed_packages().values())),
            parity=self._gate.measure(graph, floors, batch_invariant=made.batch_invariant),
        )
        speedup = None if precision == "fp16" else measure_speedup(self._loaded, self._load(graph), self._rows)
        return replace(outcome, variant=variant, after=after, speedup=speedup)

    def _discard(self, graph: str) -> None:
        for path in self._folder.glob(f"{graph}*"):
            path.unlink()

    def _order(self, graph: str, target: float) -> Order:
        options = self._options
        wide, what = self._wide
        return Order(
            graph=self._folder / self._tower.graph,
            output=self._folder / graph,
            level=options.level,
            samples=self._samples,
            wide_samples=wide,
            calibration=Calibration(
                source=self._corpus.source + what,
                items=len(self._corpus.calibration),
                sha256=_digest([*self._samples, *wide]),
                method=options.method,
            ),
            method=options.method,
            min_cosine=target,
            accept_batch_dependent=options.accept_batch_dependent,
        )

    @cached_property
    def _samples(self) -> Samples:
        return self._collate(self._prepare(self._corpus.calibration))

    @cached_property
    def _wide(self) -> tuple[Samples, str]:
        """What other items than the samples may be like, so that they are not cut off; and how it is called."""
        items, preprocessing = self._corpus.calibration, self._tower.preprocessing
        if isinstance(preprocessing, TextPreprocessing):
            texts = random_texts(self._folder / preprocessing.tokenizer, _WIDER * len(items))
            return self._collate(self._prepare(texts)), f" and {len(texts)} texts of random words"
        if isinstance(preprocessing, ImagePreprocessing):
            pixels = [row for row in self._prepare(items) if isinstance(row, np.ndarray)]
            return self._collate(vary_exposure(pixels)), ", each in another light or colours, too"
        return [], ""

    def _collate(self, prepared: Sequence[Row]) -> Samples:
        """Returns items as the graph takes them, of like length together."""
        limit = BatchLimit(items=_SAMPLE, budget=_BUDGETS[self._kind])
        groups: dict[tuple[int, ...], list[Row]] = {}
        for row in prepared:
            groups.setdefault(group_key(row), []).append(row)
        return [
            self._loaded.collate([rows[index] for index in batch])
            for rows in groups.values()
            for batch in plan_batches([_sample_cost(row) for row in rows], limit)
        ]

    def _prepare(self, items: Sequence[Any]) -> list[Row]:
        rows = self._loaded.prepare(items)
        for item, row in zip(items, rows, strict=True):
            if isinstance(row, UnusableItemError):
                raise UsageError(f"{self._corpus.source}: {item} cannot be calibrated with: {row}; take it out")
        return [row for row in rows if not isinstance(row, UnusableItemError)]

    def _load(self, graph: str) -> LoadedTower:
        options = SessionOptions(provider="cpu", provider_options=CpuOptions(spinning=False))
        return LoadedTower(self._folder, replace(self._tower, graph=graph, variants={}), options)


def aim_higher(on_samples: float, at_the_gate: float, floor: float) -> float:
    """Returns the cosine to aim at on the samples, so that the gate sees the floor reached.

    Args:
        on_samples: What was reached on the samples.
        at_the_gate: What the gate saw then.
        floor: What it has to see.
    """
    excess = (1 - floor) / max(1 - at_the_gate, 1e-12)  # of distance from 1; above 1 if another floor was missed
    return 1 - _SHARES["int8"] * min(excess, 1.0) * (1 - on_samples)


def check_loads(graph: Path) -> None:
    """Loads ``graph`` in a process of its own, since ONNX Runtime has been seen to crash on what was made of one.

    Raises:
        VariantError: It does not load.
    """
    code = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    done = subprocess.run([sys.executable, "-c", code, str(graph)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"it ended by signal {-done.returncode}"])[-1]
        raise VariantError(f"onnxruntime cannot load it ({said}); take another --level")


def _sample_cost(row: Row) -> int:
    if isinstance(row, np.ndarray) and row.ndim == _IMAGE_AXES:
        return int(row.shape[0] * row.shape[1])
    return row_cost(row)


def _digest(samples: Samples) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        for array in sample.values():
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
