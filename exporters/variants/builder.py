"""Build the variants of one tower: write the graph, check its accuracy, and measure its speed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from exporters.calibration.dataset import CalibrationDataset
from exporters.errors import FloorError, GraphError, VariantError
from exporters.graph.onnx_file import find_second_file
from exporters.graph.shared_weights import SharedWeights
from exporters.graph.statistics import GraphStatistics, graph_statistics
from exporters.progress import Stage
from exporters.variants.batches import CalibrationBatches, make_calibration_batches, prepare_items
from exporters.variants.gate import VariantGate
from exporters.variants.options import RULES, VariantOptions, variant_of
from exporters.variants.recipes import RECIPES, RecipeInputs, RecipeResult
from exporters.variants.retrieval import RetrievalParity
from exporters.variants.retrieval_dataset import RetrievalDataset
from exporters.variants.speed import measure_speedup
from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.artifact.variants import Floors, Precision, Variant, VariantName
from runtime.inference.tower import LoadedTower
from runtime.loading.golden_file import read_golden
from runtime.session.provider_options import CpuOptions
from runtime.session.providers import installed_packages
from runtime.session.session import SessionOptions


@dataclass(frozen=True, kw_only=True)
class VariantOutcome:
    """Result of building one variant of one tower.

    Attributes:
        variant: The variant's record; ``None`` if it was not written.
        reason: Why it was not written.
        failed: Whether that is a failure. A graph in which nothing can be fused is not a failure.
        before: Statistics of the tower's own graph.
        after: Statistics of the variant.
        speedup: Speed relative to the tower's own graph on the CPU provider; ``None`` if the variant is not for it.
        search: Accuracy on the user's own search; ``None`` without one.
    """

    tower: TowerName
    name: VariantName
    variant: Variant | None = None
    reason: str = ""
    failed: bool = False
    before: GraphStatistics
    after: GraphStatistics | None = None
    speedup: float | None = None
    search: RetrievalParity | None = None


class VariantBuilder:
    """A builder of the variants of one tower, from one calibration dataset."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        kind: TowerName,
        options: VariantOptions,
        dataset: CalibrationDataset,
        search: RetrievalDataset | None,
        stage: Stage,
    ) -> None:
        """Load the tower ``kind`` of the artifact ``folder``, and embed the held-out items with its own graph."""
        self._folder, self._kind, self._options, self._dataset, self._stage = folder, kind, options, dataset, stage
        self._tower = manifest.towers[kind]
        self._loaded = self._load(self._tower.graph)
        golden, _ = read_golden(folder, manifest, kind)
        with stage(f"{kind} fp32 graph"):
            self._gate = VariantGate(folder, manifest, kind, [*golden, *dataset.held_out], search)
        self._before = graph_statistics(folder / self._tower.graph, self._tower.external_data)
        self._outcome = partial(VariantOutcome, tower=kind, before=self._before)
        self._speed_rows = prepare_items(self._loaded.prepare, golden, dataset.source)
        self._weights = SharedWeights(folder / self._tower.graph)

    def build(self, precision: Precision, floors: Floors) -> VariantOutcome:
        """Build a variant that passes the gate, or return the reason why there is none."""
        name = variant_of(precision)
        output = self._folder / f"{self._kind}.{name}.onnx"
        with self._stage(f"{self._kind} {name}"):
            try:
                inputs = RecipeInputs(
                    graph=self._folder / self._tower.graph,
                    before=self._before,
                    output=output,
                    options=self._options,
                    calibration=self._calibration,
                    min_cosine=1 - RULES[precision].margin * (1 - floors.min_cosine),
                )
                return self._build(precision, inputs, floors)
            except (GraphError, VariantError) as exc:
                _remove(output)
                return self._outcome(name=name, reason=str(exc), failed=True)

    def _build(
        self, precision: Precision, inputs: RecipeInputs, floors: Floors, *, may_retry: bool = True
    ) -> VariantOutcome:
        """Run the recipe; if the held-out items miss the floor, run it once more with a higher target."""
        self._gate.expect_steps()
        result = RECIPES[precision](inputs)
        try:
            return self._check(precision, result, inputs.output, floors)
        except FloorError as exc:
            if result.calibration_cosine is None:
                raise
            all_used = result.calibration_cosine < inputs.min_cosine  # the recipe has used all float32 nodes it may
            if all_used or not may_retry:
                raise VariantError(f"{exc}; {result.describe_costs()}") from exc
            margin = RULES[precision].margin
            target = raise_target(result.calibration_cosine, exc.min_cosine, floors.min_cosine, margin)
        _remove(inputs.output)
        inputs = replace(inputs, min_cosine=target, costs=result.costs)
        return self._build(precision, inputs, floors, may_retry=False)

    def _check(self, precision: Precision, result: RecipeResult, graph: Path, floors: Floors) -> VariantOutcome:
        name = variant_of(precision)
        if result.needless:
            _remove(graph)
            failed = bool(result.float_nodes)
            return self._outcome(name=name, reason=f"{result.needless}, so it is not written", failed=failed)
        after = graph_statistics(graph, result.external_data)
        result = replace(result, external_data=self._weights.share(graph) or result.external_data)
        check_loads(graph)
        variant = Variant(
            **result.record(),
            precision=precision,
            graph=graph.name,
            operators=tuple(sorted(after.contrib_operators)),
            onnxruntime=next(iter(installed_packages().values())),
            parity=self._gate.measure(graph.name, floors, batch_invariant=result.batch_invariant),
        )
        search = self._gate.measure_search(graph.name, self._options.retrieval_floor(precision), variant.parity)
        speedup = None
        if RULES[precision].on_cpu:
            speedup = measure_speedup(self._loaded, self._load(graph.name), self._speed_rows)
        return self._outcome(name=name, variant=variant, after=after, speedup=speedup, search=search)

    def finish(self, variants: Mapping[VariantName, Variant]) -> Tower:
        """Return the tower with its ``variants``. Its own graph takes the weights from a file that they share.

        Raises:
            VariantError: The graph then gives other vectors.
        """
        shared = any(variant.external_data == self._weights.path.name for variant in variants.values())
        external_data = self._weights.finish(used=shared)
        if external_data != self._tower.external_data:
            after = self._load(self._tower.graph)
            if not all(np.array_equal(after.embed([row]), self._loaded.embed([row])) for row in self._speed_rows):
                raise VariantError(f"{self._tower.graph} gives other vectors with its weights in {external_data}")
        return replace(self._tower, external_data=external_data, variants=dict(variants))

    @cached_property
    def _calibration(self) -> CalibrationBatches:
        return make_calibration_batches(self._folder, self._tower.preprocessing, self._loaded, self._dataset)

    def _load(self, graph: str) -> LoadedTower:
        options = SessionOptions(provider="cpu", provider_options=CpuOptions(spinning=False))
        external_data = find_second_file(self._folder / graph)
        tower = replace(self._tower, graph=graph, external_data=external_data, variants={})
        return LoadedTower(self._folder, tower, options)


def _remove(graph: Path) -> None:
    for path in graph.parent.glob(f"{graph.name}*"):
        path.unlink()


def raise_target(calibration_cosine: float, held_out_cosine: float, floor: float, margin: float) -> float:
    """Return a higher target for the cosine on calibration batches, so that the held-out items reach ``floor``."""
    excess = (1 - floor) / max(1 - held_out_cosine, 1e-12)  # of the distances from 1; above 1 if another floor failed
    return 1 - margin * min(excess, 1.0) * (1 - calibration_cosine)


def check_loads(graph: Path) -> None:
    """Load ``graph`` in a process of its own, because ONNX Runtime may crash on a graph that it optimized itself.

    Raises:
        VariantError: The graph cannot be loaded.
    """
    code = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    done = subprocess.run([sys.executable, "-c", code, str(graph)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
        raise VariantError(f"onnxruntime cannot load the graph ({said}); use another --level")
