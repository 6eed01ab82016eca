"""Measure how well embeddings find the relevant documents of queries: recall@10 and nDCG@10.

Both are those of trec_eval and BEIR: the gain is the grade, its discount the logarithm of the rank, and recall is the
share of all relevant documents. Source: https://trec.nist.gov/trec_eval
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporters.variants.retrieval_dataset import Grades
from runtime.array_types import Array
from runtime.artifact.similarity import SimilarityFunction, similarities

_TOP = 10
_CHUNK = 64  # queries at once; their similarities to all documents are in memory
_DISCOUNTS = 1 / np.log2(np.arange(2, _TOP + 2))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Means over the queries of a search."""

    recall: float  # share of the relevant documents among the first ten
    ndcg: float  # gain of the first ten, as a share of the gain of the best order


@dataclass(frozen=True, kw_only=True)
class RetrievalParity:
    """A search with a variant, next to the same search with the fp32 graph."""

    queries: int
    documents: int
    fp32: Ranking
    variant: Ranking

    def kept(self) -> float:
        """Return the smaller of the shares of fp32's recall@10 and nDCG@10 that the variant keeps.

        It is NaN if one of them is, and NaN reaches no floor.
        """
        return float(np.min([self.variant.recall / self.fp32.recall, self.variant.ndcg / self.fp32.ndcg]))

    def describe(self) -> str:
        """Return the measurements in one line."""
        return (
            f"{self.queries} queries in {self.documents} documents: recall@10 {self.variant.recall:.4f} "
            f"(fp32 {self.fp32.recall:.4f}), nDCG@10 {self.variant.ndcg:.4f} (fp32 {self.fp32.ndcg:.4f})"
        )


def measure_ranking(
    queries: Array, documents: Array, relevant: Sequence[Grades], function: SimilarityFunction = "cosine"
) -> Ranking:
    """Rank ``documents`` for each query by similarity, and compare the first ten with the relevant ones.

    Args:
        queries: ``[queries, dim]`` embeddings.
        documents: ``[documents, dim]`` embeddings.
        relevant: For each query, the grades of its relevant documents by position, not empty.
        function: The model's function of similarity.
    """
    recalls, ndcgs = [], []
    for found, grades in zip(_first_ten(queries, documents, function), relevant, strict=True):
        gains = np.array([grades.get(int(document), 0.0) for document in found])
        best = np.sort(list(grades.values()))[::-1][:_TOP]
        recalls.append(np.count_nonzero(gains) / len(grades))
        ndcgs.append(gains @ _DISCOUNTS[: len(gains)] / (best @ _DISCOUNTS[: len(best)]))
    return Ranking(recall=float(np.mean(recalls)), ndcg=float(np.mean(ndcgs)))


def _first_ten(queries: Array, documents: Array, function: SimilarityFunction) -> Iterator[Array]:
    """Yield the positions of the ten most similar documents of each query, the best first."""
    for start in range(0, len(queries), _CHUNK):
        found = similarities(queries[start : start + _CHUNK], documents, function)
        yield from np.argsort(-found, axis=1, kind="stable")[:, :_TOP]
