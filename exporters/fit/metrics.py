"""Measure a model on evaluation data by the evaluators of sentence-transformers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import SequentialEvaluator
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)

from exporters.errors import TrainingDataError
from exporters.families.sentence.reader import read_default_prompt, read_prompts
from exporters.fit.dataset import Data
from runtime.inference.prompts import search_prompts

_RETRIEVAL = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10", "map@100")
_CORRELATION = ("spearman", "pearson")
_DEPTHS: Mapping[str, list[int]] = {
    "accuracy_at_k": [1],
    "precision_recall_at_k": [1, 5, 10],
    "mrr_at_k": [10],
    "ndcg_at_k": [10],
    "map_at_k": [100],
}


class Evaluation:
    """Metrics on evaluation data: those of search, or the correlation with scores.

    Attributes:
        evaluator: The library's evaluator.
        main: Name of the metric that chooses the best epoch, as the evaluator calls it.
    """

    def __init__(self, data: Data, model: SentenceTransformer, *, batch_size: int, dims: Sequence[int]) -> None:
        """Prepare the evaluation, also of the first ``dims`` dimensions.

        For pairs, each first item searches its partner among all second ones, and among the wrong answers of triplets.
        For labels, half of the items of each label search among the other half, and all items with the same label are
        right.

        Raises:
            TrainingDataError: The data tells no model from another: no label has two distinct items, all items are
                right answers, or all scores are equal.
        """
        similarity = str(model.similarity_fn_name)
        found: dict[int | None, Any] = {}
        for dim in (None, *dims):
            name = "" if dim is None else f"{dim}_dimensions"
            settings = {"batch_size": batch_size, "truncate_dim": dim, "name": name, "write_csv": False}
            found[dim] = _correlate(data, settings) if data.kind == "scores" else _search(data, model, settings)
        self.evaluator = SequentialEvaluator(found.values())
        self._keys: dict[str, str] = {}
        for dim in found:
            prefix, suffix = ("", "") if dim is None else (f"{dim}_dimensions_", f" ({dim} dimensions)")
            for metric in _CORRELATION if data.kind == "scores" else _RETRIEVAL:
                full = f"{metric}_{similarity}" if data.kind == "scores" else f"{similarity}_{metric}"
                self._keys[prefix + full] = metric + suffix
        self.main = f"spearman_{similarity}" if data.kind == "scores" else f"{similarity}_ndcg@10"

    @property
    def main_metric(self) -> str:
        """The name of the main metric for people."""
        return self._keys[self.main]

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """Return the metrics of ``model`` by their names for people."""
        return self.select(self.evaluator(model))

    def select(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics of an evaluation by their names for people."""
        plain = {key.removeprefix("eval_"): value for key, value in metrics.items()}
        return {name: float(plain[key]) for key, name in self._keys.items()}


def wrap_items(data: Data, position: int) -> list[Any]:
    """Return one item of each row as the model takes it: a text, or a dict from the name of a tower to a path."""
    tower = data.towers[position]
    items = [row.items[position] for row in data.rows]
    return items if tower == "text" else [{tower: item} for item in items]


def choose_prompts(model: SentenceTransformer, data: Data) -> tuple[str, ...]:
    """Return the prompt of each item of a row.

    For pairs and triplets, the first item has that of queries, and the others that of documents. For other data, each
    has the default prompt.
    """
    prompts, default = read_prompts(model), read_default_prompt(model)
    if data.kind not in ("pairs", "triplets"):
        return (default,) * len(data.towers)
    query, document = search_prompts(prompts, default)
    return (query, *[document] * (len(data.towers) - 1))


def _correlate(data: Data, settings: dict[str, Any]) -> EmbeddingSimilarityEvaluator:
    scores = [float(row.target or 0) for row in data.rows]
    if len(set(scores)) < 2:
        raise TrainingDataError(
            "all scores of the evaluation data are equal, so nothing correlates with them; give rows with other scores"
        )
    return EmbeddingSimilarityEvaluator(wrap_items(data, 0), wrap_items(data, 1), scores, **settings)


def _search(data: Data, model: SentenceTransformer, settings: dict[str, Any]) -> InformationRetrievalEvaluator:
    queries, corpus, relevant = _split_labels(data) if data.kind == "labels" else _pair(data)
    if all(answers == corpus.keys() for answers in relevant.values()):
        raise TrainingDataError(
            "every item of the evaluation data is a right answer, so any model finds it; give rows with other labels "
            "or answers, or a larger --val-split"
        )
    prompts = choose_prompts(model, data)
    settings |= {"query_prompt": prompts[0], "corpus_prompt": prompts[-1], **_DEPTHS}
    return InformationRetrievalEvaluator(queries, corpus, relevant, **settings)


Search = tuple[dict[str, Any], dict[str, Any], dict[str, set[str]]]  # queries, corpus, and what is right for a query


def _pair(data: Data) -> Search:
    """Equal items are one query, or one entry of the corpus: else a right answer would count as wrong."""
    first, second, *wrong = (wrap_items(data, position) for position in range(len(data.towers)))
    queries: dict[str, Any] = {}
    corpus: dict[str, Any] = {}
    relevant: dict[str, set[str]] = defaultdict(set)
    names: dict[tuple[int, str], str] = {}
    for row, query, answer in zip(data.rows, first, second, strict=True):
        asked = names.setdefault((0, row.items[0]), f"q{len(names)}")
        found = names.setdefault((1, row.items[1]), f"d{len(names)}")
        queries[asked], corpus[found] = query, answer
        relevant[asked].add(found)
    for row, item in zip(data.rows, *wrong, strict=True) if wrong else ():
        corpus[names.setdefault((1, row.items[2]), f"d{len(names)}")] = item
    return queries, corpus, relevant


def _split_labels(data: Data) -> Search:
    queries: dict[str, Any] = {}
    corpus: dict[str, Any] = {}
    answers: dict[object, set[str]] = defaultdict(set)
    labels: dict[str, object] = {}
    seen: dict[object, int] = defaultdict(int)
    # Equal items of a label are one item: else each would find the other, whatever the model.
    distinct = {(data.identify(row), row.target): row for row in reversed(data.rows)}
    data = replace(data, rows=tuple(reversed(distinct.values())))
    for index, (row, item) in enumerate(zip(data.rows, wrap_items(data, 0), strict=True)):
        seen[row.target] += 1
        if seen[row.target] % 2:
            corpus[f"d{index}"] = item
            answers[row.target].add(f"d{index}")
        else:
            queries[f"q{index}"], labels[f"q{index}"] = item, row.target
    if not queries:
        raise TrainingDataError("no label of the evaluation data has two distinct items, so none can find another")
    return queries, corpus, {name: answers[label] for name, label in labels.items()}
