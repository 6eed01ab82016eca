"""A model that is ready to serve: its towers as graphs of the dispatcher, its names, and its prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_types import Array
from runtime.artifact.manifest import Manifest, TextPreprocessing, TowerName
from runtime.background import start_in_background
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.inference.batching import BatchLimit
from runtime.inference.embedder import Embedder
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import Pipeline
from runtime.inference.prompts import applied_prompt, prompt_names
from runtime.inference.tower import LoadedTower, Row, row_cost, tokens_per_cost
from runtime.loading.golden_file import read_golden
from runtime.loading.verify import verify_model
from runtime.preprocess.item import UnusableItemError
from runtime.server.request_errors import RequestError
from runtime.server.waiting_queue import BatchRunner
from runtime.session.cancellation import CancellationToken

_CPU_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A loaded artifact.

    Attributes:
        name: The name that clients know.
        embedder: The loaded artifact.
        towers: Its towers by the kind of item.
        runners: The same towers, as the dispatcher runs them.
        samples: A row of each tower, of a golden item.
        cancellation: Ends all runs at once.
    """

    name: str
    embedder: Embedder
    towers: Mapping[TowerName, LoadedTower]
    runners: Mapping[TowerName, BatchRunner]
    samples: Mapping[TowerName, Row]
    cancellation: CancellationToken

    @property
    def manifest(self) -> Manifest:
        """The manifest of the artifact."""
        return self.embedder.manifest

    @property
    def max_length(self) -> int | None:
        """The number of tokens that a text may have; ``None`` without a text tower."""
        return self.embedder.max_seq_length if "text" in self.towers else None

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names with a prompt, such as ``NAME:query``, which clients can use that know no prompts."""
        return tuple(f"{self.name}:{prompt}" for prompt in prompt_names(self.embedder.loaded_towers()))

    def prompt(self, name: str | None) -> str:
        """Return the text of the prompt called ``name``; that of the default prompt for ``None``.

        Raises:
            RequestError: There is no such prompt.
        """
        try:
            return applied_prompt(EmbedOptions(prompt_name=name), self.embedder.loaded_towers())
        except UsageError as exc:
            raise RequestError(400, str(exc), param="prompt_name") from exc

    def tokens(self, tower: TowerName, row: Row) -> int:
        """Return the tokens of a row; an image or a point cloud counts as tokens that take as long."""
        return max(1, round(row_cost(row) * self.runners[tower].tokens_per_cost))


def serve_model(embedder: Embedder, name: str, folder: Path, max_batch_tokens: int | None) -> ServedModel:
    """Return the model of the artifact in ``folder`` for the dispatcher.

    Batches of texts have up to ``max_batch_tokens``, ``None`` for the default. The tower of ``embedder`` keeps this
    budget, so a batch counts as outsized from four times as many tokens.
    """
    pipeline = embedder.backend
    if not isinstance(pipeline, Pipeline):
        raise UsageError("the server runs a model in its own process; load it without workers")
    for tower in pipeline.towers.values():
        tower.session.yield_cores()
    cancellation = CancellationToken()
    if text := pipeline.towers.get("text"):
        text.batch_sizes = replace(text.batch_sizes, budget=_text_budget(text, max_batch_tokens))
    runners = {
        kind: BatchRunner(
            embed=partial(tower.embed, cancellation=cancellation),
            limit=partial(_batch_limit, tower),
            dim=pipeline.output_dim,
            tokens_per_cost=tokens_per_cost(kind),
        )
        for kind, tower in pipeline.towers.items()
    }
    return ServedModel(
        name=name,
        embedder=embedder,
        towers=pipeline.towers,
        runners=runners,
        samples={kind: _golden_row(tower, kind, folder, embedder.manifest) for kind, tower in pipeline.towers.items()},
        cancellation=cancellation,
    )


def _batch_limit(tower: LoadedTower) -> BatchLimit:
    """Return the bounds of a batch now: a tower lowers its budget after too little memory."""
    return BatchLimit(
        budget=tower.batch_sizes.budget,
        items=tower.session.provider.max_items,
        multiple=tower.session.provider.sequence_multiple,
        padding=tower.batch_sizes.padding,
        powers_of_two=tower.session.needs_few_shapes,
    )


def _text_budget(tower: LoadedTower, asked: int | None) -> int:
    """Return the tokens of a batch: fewer than ``embed`` takes, so that nobody waits long for a thread.

    They cost no speed. With all-MiniLM-L6-v2 on an AMD EPYC, 1,020 tokens took 1.1 times the time per token of 384.
    """
    if asked is not None:
        return asked
    usual = tower.batch_sizes.budget
    return min(usual, _CPU_TOKENS) if tower.session.provider.device == "cpu" else usual


def make_ready(model: ServedModel, folder: Path, lanes: int) -> None:
    """Compare the golden vectors, then run as many of the largest items and batches at once as the dispatcher may.

    So all the memory that requests will need for their vectors is taken, and both sessions of a graph are open. Where
    each new shape costs time, all sizes of batches of images have run.

    Raises:
        VerificationError: The golden vectors are out of tolerance.
        EmbeddingBackbonesError: A graph cannot run.
    """
    for side_by_side in (True, False):  # side by side first: of large weights, only one session is kept
        verify_model(model.embedder, folder, partial(_embed, model, side_by_side=side_by_side))
    for kind, runner in model.runners.items():
        row, limit = _largest_row(model, kind, folder), runner.limit()
        most = limit.largest(row_cost(row), limit.budget or 1)
        _run_at_once(partial(runner.embed, [row], side_by_side=False), max(1, lanes // 2))
        all_sizes = limit.powers_of_two and kind == "image"  # texts have too many lengths
        for size in [1 << power for power in range(most.bit_length())] if all_sizes else [most]:
            _run_at_once(partial(runner.embed, [row] * size, side_by_side=True), lanes)


def _run_at_once(call: Callable[[], object], count: int) -> None:
    for wait in [start_in_background(call) for _ in range(count)]:
        wait()


def _embed(model: ServedModel, items: Sequence[Any], kind: TowerName, *, side_by_side: bool) -> Array:
    rows = _usable(model.towers[kind].prepare(items))
    return np.concatenate([model.runners[kind].embed([row], side_by_side=side_by_side) for row in rows])


def _golden_row(tower: LoadedTower, kind: TowerName, folder: Path, manifest: Manifest) -> Row:
    items, _ = read_golden(folder, manifest, kind)
    return min(_usable(tower.prepare(items)), key=row_cost)


def _largest_row(model: ServedModel, kind: TowerName, folder: Path) -> Row:
    items, _ = read_golden(folder, model.manifest, kind)
    recipe = model.manifest.towers[kind].preprocessing
    if isinstance(recipe, TextPreprocessing):
        items = [*items, " ".join([str(items[0])] * recipe.max_length)]  # which memory_limit_bytes may not allow
    return max(_usable(model.towers[kind].prepare(items)), key=row_cost)


def _usable(rows: Sequence[Row | UnusableItemError]) -> list[Row]:
    usable = [row for row in rows if not isinstance(row, UnusableItemError)]
    if not usable:
        raise EmbeddingBackbonesError(f"the golden items of the artifact cannot be prepared: {rows[0]}")
    return usable
