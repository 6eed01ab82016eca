"""Check a variant against floors on real items: each alone, in batches with padding, and with other threads."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.errors import FloorError, VariantError
from exporters.graph.onnx_file import find_second_file
from exporters.parity import batch_sizes, longest_text
from exporters.progress import expect, step_counter
from exporters.variants.retrieval import Ranking, RetrievalParity, measure_ranking
from exporters.variants.retrieval_dataset import RetrievalDataset
from runtime.array_types import Array
from runtime.artifact.manifest import Manifest, TextPreprocessing, Tower, TowerName
from runtime.artifact.parity import format_cosine, measure_agreement, neighbour_overlap, row_cosines
from runtime.artifact.variants import Floors, VariantParity
from runtime.errors import InferenceError, NonFiniteError, UsageError
from runtime.inference.embedder import Embedder
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import Pipeline
from runtime.inference.prompts import search_prompts
from runtime.inference.truncation import without_truncation_warning
from runtime.machine.threads import available_threads
from runtime.session.session import SessionOptions

_BATCH_SIZE = 16  # at most: more would only take memory


class VariantGate:
    """The accuracy check for the variants of one tower."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        tower: TowerName,
        items: Sequence[Any],
        search: RetrievalDataset | None = None,
    ) -> None:
        """Embed items with the tower's own graph in the artifact ``folder``.

        Args:
            folder: The artifact.
            manifest: Its manifest.
            tower: The tower.
            items: Real and distinct items.
            search: The user's own search, which counts if the tower embeds its queries or documents.

        Raises:
            UsageError: The graph itself finds no relevant document.
        """
        self._folder, self._manifest, self._tower, self._items = folder, manifest, tower, items
        self._search = search if search and tower in (search.query_kind, search.document_kind) else None
        graph = manifest.towers[tower].graph
        expect(len(items) + self._search_items())
        self._reference = self._embed(graph, items)
        if self._search:
            self._ranking = self._rank(self._search, graph)
            if not self._ranking.recall:
                raise UsageError("fp32 finds no relevant document among the first ten; check the ids of --qrels")

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
        with _as_variant_error():
            parity = self._measure(graph, floors)
        if misses := find_missed_floors(parity, batch_invariant=batch_invariant):
            raise FloorError(f"{'; '.join(misses)} ({describe_parity(parity)})", parity.min_cosine)
        return parity

    def measure_search(self, graph: str, floor: float, parity: VariantParity) -> RetrievalParity | None:
        """Return the accuracy of a variant on the user's own search; ``None`` if there is none.

        Args:
            graph: Name of the graph's file in the artifact.
            floor: The smallest share of fp32's recall@10 and nDCG@10 that is allowed.
            parity: Result of :meth:`measure`.

        Raises:
            FloorError: The floor is not reached; the message holds the measurements.
            VariantError: As for :meth:`measure`.
        """
        if self._search is None:
            return None
        sizes = {"queries": len(self._search.queries), "documents": len(self._search.documents)}
        with _as_variant_error():
            ranking = self._rank(self._search, graph)
        found = RetrievalParity(**sizes, fp32=self._ranking, variant=ranking)
        if not found.kept() >= floor:
            kept = f"{found.kept():.1%} of fp32's recall@10 or nDCG@10 is kept, below {floor:.1%}"
            raise FloorError(f"{kept} ({found.describe()})", parity.min_cosine)
        return found

    def expect_steps(self) -> None:
        """Announce the steps of measuring a variant to the running stage."""
        expect(len(self._items) + 3 * len(self._items[:_BATCH_SIZE]) + self._search_items())

    def _search_items(self) -> int:
        return len(self._search.queries) + len(self._search.documents) if self._search else 0

    def _measure(self, graph: str, floors: Floors) -> VariantParity:
        alone = self._embed(graph, self._items)
        some = self._items[:_BATCH_SIZE]
        batched = self._embed(graph, some, in_batches=True)
        threads = max(available_threads(), min(2, os.cpu_count() or 1))
        few, many = (self._embed(graph, some, threads=count) for count in (1, threads))
        agreement = measure_agreement(self._reference, alone)
        return VariantParity(
            provider="cpu",
            items=len(self._items),
            min_cosine=agreement.min_cosine,
            p1_cosine=agreement.p1_cosine,
            mean_cosine=agreement.mean_cosine,
            max_abs_error=agreement.max_abs_error,
            reference_scale=agreement.reference_scale,
            neighbour_overlap=neighbour_overlap(self._reference, alone, function=self._manifest.similarity_function),
            batch_cosine=float(row_cosines(alone[: len(some)], batched).min()),
            thread_cosine=float(row_cosines(few, many).min()),
            floors=floors,
        )

    def _embed(
        self, graph: str, items: Sequence[Any], *, in_batches: bool = False, threads: int | None = None
    ) -> Array:
        model = self._open(graph, [self._tower], threads)
        sizes = batch_sizes(len(items), longest_text(model, self._tower, items)) if in_batches else (1,)
        return _embed(model, items, EmbedOptions(tower=self._tower, batch_size=sizes[-1]))

    def _rank(self, search: RetrievalDataset, graph: str) -> Ranking:
        """Search with ``graph`` in place of the tower's own; another tower keeps its own."""
        model = self._open(graph, {self._tower, search.query_kind, search.document_kind})
        query_prompt, document_prompt = _search_prompts(self._manifest.towers)
        queries = _embed(model, search.queries, _search_options(search.query_kind, query_prompt))
        documents = _embed(model, search.documents, _search_options(search.document_kind, document_prompt))
        return measure_ranking(queries, documents, search.relevant, self._manifest.similarity_function)

    def _open(self, graph: str, towers: Collection[TowerName], threads: int | None = None) -> Embedder:
        """Load towers with ``graph`` for this gate's tower. With ``threads``, one batch at a time takes all of them."""
        graphs = {name: self._manifest.towers[name].graph for name in towers} | {self._tower: graph}
        records = {name: self._record(name, each) for name, each in graphs.items()}
        options = SessionOptions(provider="cpu", threads=threads, concurrent_batches=threads and 1)
        return Embedder(self._manifest, Pipeline(self._folder, records, self._manifest.output_dim, options))

    def _record(self, name: TowerName, graph: str) -> Tower:
        external_data = find_second_file(self._folder / graph)
        return replace(self._manifest.towers[name], graph=graph, external_data=external_data, variants={})


@contextmanager
def _as_variant_error() -> Iterator[None]:
    """Turn an error of inference into :class:`VariantError`: the fp32 graph has embedded the same items."""
    try:
        yield
    except (InferenceError, NonFiniteError) as exc:
        raise VariantError(f"{exc}; the fp32 graph's vectors of the same items are finite") from exc


def _search_prompts(towers: Mapping[TowerName, Tower]) -> tuple[str, str]:
    recipe = towers["text"].preprocessing if "text" in towers else None
    if not isinstance(recipe, TextPreprocessing):
        return "", ""
    return search_prompts(recipe.prompts, recipe.default_prompt_text)


def _search_options(kind: TowerName, prompt: str) -> EmbedOptions:
    return EmbedOptions(tower=kind, prompt=prompt if kind == "text" else None)


def _embed(model: Embedder, items: Sequence[Any], options: EmbedOptions) -> Array:
    """Return the vectors of ``items``. Each item is a step of the running stage."""
    with without_truncation_warning():
        return np.concatenate([part.vectors for part in model.stream(items, options, step_counter())])


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
