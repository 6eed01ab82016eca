"""The gate for variants: one is let through only if it keeps its floors on real items, alone, in batches and padded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.errors import FloorError, VariantError
from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.parity import cosine_similarities, measure_agreement, near_one, neighbour_overlap
from runtime.artifact.variants import Floors, VariantParity
from runtime.errors import InferenceError, NonFiniteError
from runtime.inference.embedder import Embedder, without_truncation_warning
from runtime.inference.pipeline import Pipeline
from runtime.machine.threads import available_threads
from runtime.session.session import SessionOptions

Array = np.ndarray[Any, np.dtype[np.float32]]
_BATCH = 16  # items of a batch; more would only take memory


class Gate:
    """What the variants of one tower are held to.

    Attributes:
        items: The items on which they are judged.
        reference: ``[items, output_dim]`` float32: what the fp32 graph gives for them.
    """

    def __init__(self, folder: Path, manifest: Manifest, tower: TowerName, items: Sequence[Any]) -> None:
        """Embeds ``items`` by the tower's own graph.

        Args:
            folder: The artifact; candidates lie in it too.
            manifest: Its record.
            tower: Which tower.
            items: Real and different items, as ``Embedder.embed`` takes them.
        """
        self._folder, self._manifest, self._tower = folder, manifest, tower
        self.items = items
        self.reference: Array = self._embed(manifest.towers[tower].graph, items)

    def measure(self, graph: str, floors: Floors, *, batch_invariant: bool = True) -> VariantParity:
        """Returns how ``graph``, a file of the folder, compares with the reference.

        Args:
            graph: The file's name.
            floors: What it has to reach.
            batch_invariant: Whether its vectors may not depend on the batch.

        Raises:
            VariantError: It does not; the message holds the figures.
        """
        try:
            parity = self._measure(graph, floors)
        except (InferenceError, NonFiniteError) as exc:
            raise VariantError(f"{exc}; the fp32 graph's vectors of the same items are finite") from exc
        faults = find_faults(parity, batch_invariant=batch_invariant)
        if faults:
            raise FloorError(f"{'; '.join(faults)} ({describe_figures(parity)})", parity.min_cosine)
        return parity

    def _measure(self, graph: str, floors: Floors) -> VariantParity:
        alone = self._embed(graph, self.items, batch_size=1)
        few = self.items[:_BATCH]
        agreement, cosines = measure_agreement(self.reference, alone), _row_cosines(self.reference, alone)
        return VariantParity(
            provider="cpu",
            items=len(self.items),
            min_cosine=agreement.min_cosine,
            p1_cosine=float(np.percentile(cosines, 1)),
            mean_cosine=float(cosines.mean()),
            max_abs_error=agreement.max_abs_error,
            reference_scale=agreement.reference_scale,
            neighbour_overlap=neighbour_overlap(self.reference, alone),
            batch_cosine=_least_cosine(alone, self._embed(graph, few, batch_size=_BATCH)),
            thread_cosine=_least_cosine(alone, self._embed(graph, few, batch_size=1, threads=_other_threads())),
            floors=floors,
        )

    def _embed(self, graph: str, items: Sequence[Any], *, batch_size: int = 1, threads: int | None = None) -> Array:
        record = replace(self._manifest.towers[self._tower], graph=graph, variants={})
        options = SessionOptions(provider="cpu", threads=threads)
        pipeline = Pipeline(self._folder, {self._tower: record}, self._manifest.output_dim, options)
        with without_truncation_warning():
            vectors: Array = Embedder(self._manifest, pipeline).embed(items, tower=self._tower, batch_size=batch_size)
        return vectors


def find_faults(parity: VariantParity, *, batch_invariant: bool = True) -> list[str]:
    """Returns which floors are not reached. NaN reaches none."""
    floors = parity.floors
    faults = []
    if not parity.min_cosine >= floors.min_cosine:
        faults.append(f"min cosine {near_one(parity.min_cosine)} is below {near_one(floors.min_cosine)}")
    if not parity.neighbour_overlap >= floors.min_overlap:
        faults.append(
            f"{parity.neighbour_overlap:.1%} of nearest neighbours stay, where {floors.min_overlap:.1%} have to"
        )
    if batch_invariant and not parity.batch_cosine >= floors.min_invariance:
        faults.append(f"a vector depends on its batch: {near_one(parity.batch_cosine)} to the one made alone")
    if not parity.thread_cosine >= floors.min_invariance:
        faults.append(f"a vector depends on the number of threads: {near_one(parity.thread_cosine)}")
    return faults


def describe_figures(parity: VariantParity) -> str:
    """Returns the figures in one line."""
    return (
        f"cosine min {near_one(parity.min_cosine)}, p1 {near_one(parity.p1_cosine)}, mean "
        f"{near_one(parity.mean_cosine)}; max abs error {parity.max_abs_error:.2g} of {parity.reference_scale:.2g}; "
        f"neighbours {parity.neighbour_overlap:.1%}; in a batch {near_one(parity.batch_cosine)}, by other threads "
        f"{near_one(parity.thread_cosine)}; {parity.items} items"
    )


def _row_cosines(a: Array, b: Array) -> np.ndarray[Any, Any]:
    cosines: np.ndarray[Any, Any] = np.diagonal(cosine_similarities(a, b))
    return cosines


def _least_cosine(alone: Array, others: Array) -> float:
    return min(float(_row_cosines(alone[: len(others)], others).min()), 1.0)


def _other_threads() -> int:
    return 1 if available_threads() > 1 else min(2, os.cpu_count() or 1)
