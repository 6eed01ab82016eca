"""Check a variant against floors on real items: each alone, in batches with padding, and with other threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.errors import FloorError, VariantError
from exporters.graph.onnx_file import find_second_file
from runtime.array_types import Array
from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.parity import format_cosine, measure_agreement, neighbour_overlap, row_cosines
from runtime.artifact.variants import Floors, VariantParity
from runtime.errors import InferenceError, NonFiniteError
from runtime.inference.embedder import Embedder, without_truncation_warning
from runtime.inference.pipeline import Pipeline
from runtime.machine.threads import available_threads
from runtime.session.session import SessionOptions

_BATCH_SIZE = 16  # more would only take memory


class VariantGate:
    """The accuracy check for the variants of one tower."""

    def __init__(self, folder: Path, manifest: Manifest, tower: TowerName, items: Sequence[Any]) -> None:
        """Embed ``items``, real and distinct ones, with the tower's own graph in the artifact ``folder``."""
        self._folder, self._manifest, self._tower, self._items = folder, manifest, tower, items
        self._reference = self._embed(manifest.towers[tower].graph, items)

    def measure(self, graph: str, floors: Floors, *, batch_invariant: bool = True) -> VariantParity:
        """Return the accuracy of a variant.

        Args:
            graph: Name of the graph's file in the artifact.
            floors: The smallest values allowed.
            batch_invariant: Whether the floor for vectors in a batch applies.

        Raises:
            FloorError: A floor is not reached; the message holds the measurements.
            VariantError: The graph cannot be run or returns NaN or infinity.
        """
        try:
            parity = self._measure(graph, floors)
        except (InferenceError, NonFiniteError) as exc:
            raise VariantError(f"{exc}; the fp32 graph's vectors of the same items are finite") from exc
        if misses := find_missed_floors(parity, batch_invariant=batch_invariant):
            raise FloorError(f"{'; '.join(misses)} ({describe_parity(parity)})", parity.min_cosine)
        return parity

    def _measure(self, graph: str, floors: Floors) -> VariantParity:
        alone = self._embed(graph, self._items)
        some = self._items[:_BATCH_SIZE]
        batched = self._embed(graph, some, batch_size=_BATCH_SIZE)
        other_threads = 1 if available_threads() > 1 else min(2, os.cpu_count() or 1)
        threaded = self._embed(graph, some, threads=other_threads)
        agreement, cosines = measure_agreement(self._reference, alone), row_cosines(self._reference, alone)
        return VariantParity(
            provider="cpu",
            items=len(self._items),
            min_cosine=agreement.min_cosine,
            p1_cosine=float(np.percentile(cosines, 1)),
            mean_cosine=float(cosines.mean()),
            max_abs_error=agreement.max_abs_error,
            reference_scale=agreement.reference_scale,
            neighbour_overlap=neighbour_overlap(self._reference, alone),
            batch_cosine=float(row_cosines(alone[: len(some)], batched).min()),
            thread_cosine=float(row_cosines(alone[: len(some)], threaded).min()),
            floors=floors,
        )

    def _embed(self, graph: str, items: Sequence[Any], *, batch_size: int = 1, threads: int | None = None) -> Array:
        external_data = find_second_file(self._folder / graph)
        tower = self._manifest.towers[self._tower]
        record = replace(tower, graph=graph, external_data=external_data, variants={})
        options = SessionOptions(provider="cpu", threads=threads)
        pipeline = Pipeline(self._folder, {self._tower: record}, self._manifest.output_dim, options)
        with without_truncation_warning():
            return Embedder(self._manifest, pipeline).embed(items, tower=self._tower, batch_size=batch_size)


def find_missed_floors(parity: VariantParity, *, batch_invariant: bool = True) -> list[str]:
    """Return a description of each floor that is not reached. NaN reaches no floor."""
    floors, overlap = parity.floors, f"{parity.neighbour_overlap:.1%} of the nearest neighbours stay the same"
    lowest, batch, threads = map(format_cosine, (parity.min_cosine, parity.batch_cosine, parity.thread_cosine))
    misses = []
    if not parity.min_cosine >= floors.min_cosine:
        misses.append(f"min cosine {lowest} is below {format_cosine(floors.min_cosine)}")
    if not parity.neighbour_overlap >= floors.min_overlap:
        misses.append(f"{overlap}, below {floors.min_overlap:.1%}")
    if batch_invariant and not parity.batch_cosine >= floors.min_invariance:
        misses.append(f"a vector depends on its batch: cosine {batch} to the vector computed alone")
    if not parity.thread_cosine >= floors.min_invariance:
        misses.append(f"a vector depends on the number of threads: cosine {threads}")
    return misses


def describe_parity(parity: VariantParity) -> str:
    """Return the measurements in one line."""
    cosines = (parity.min_cosine, parity.p1_cosine, parity.mean_cosine, parity.batch_cosine, parity.thread_cosine)
    lowest, p1, mean, batch, threads = map(format_cosine, cosines)
    return (
        f"{parity.items} items: cosine min {lowest}, p1 {p1}, mean {mean}; max abs error {parity.max_abs_error:.2g}, "
        f"largest value {parity.reference_scale:.2g}; same neighbours {parity.neighbour_overlap:.1%}; "
        f"cosine in a batch {batch}, with other threads {threads}"
    )
