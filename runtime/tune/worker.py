"""Embed an artifact's golden items on demand: the process of one candidate.

``python -m runtime.tune.worker FOLDER TOWER SETTING`` answers with the cosine similarity to the golden vectors, and
with its floor. SETTING is a :class:`TuneSetting` as JSON. Then the process reads a batch size from each line of
standard input, and answers with the seconds of a turn.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.embedder import Embedder
from runtime.inference.truncation import without_truncation_warning
from runtime.loading.golden import TowerVerification, verify_towers
from runtime.loading.golden_file import read_golden
from runtime.loading.load import load
from runtime.loading.tuning_store import TuneSetting
from runtime.machine.child_process import questions, serve

_CALLS = 4  # calls in a turn, at least, unless they are slow
_LONG_TURN_S = 0.5


def open_model(folder: Path, tower: TowerName, setting: TuneSetting) -> tuple[Embedder, TowerVerification]:
    """Load a tower. Return it with the agreement of its vectors with the golden ones.

    Raises:
        EmbeddingBackbonesError: The tower cannot be loaded, or cannot embed.
    """
    model = load(
        folder,
        provider=setting.provider,
        variant=setting.variant,
        threads=setting.total_threads,
        concurrent_batches=setting.concurrent_batches,
        tower=tower,
        check_hashes=False,
    )
    return model, verify_towers(model, folder)[tower]


def take_turn(
    model: Embedder, items: Sequence[Any], batch_size: int, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the seconds of some calls of ``embed``, each with ``batch_size`` items for each batch side by side.

    Batches have ``batch_size`` images or meshes. Texts are batched by their tokens, as after ``load``. Each call
    continues with the items after those of the previous call, so every item is embedded equally often. All calls run
    once before timing starts, because other processes have evicted the caches. ``clock`` returns seconds.

    Raises:
        EmbeddingBackbonesError: A batch cannot be embedded.
    """
    size, tower = batch_size * model.concurrent_batches, model.towers[0]
    limit = None if tower == "text" else batch_size
    calls = len(items) // math.gcd(len(items), size)
    endless = cycle(items)
    batches = [list(islice(endless, size)) for _ in range(calls)]
    seconds: list[float] = []
    with without_truncation_warning():
        for batch in batches:
            model.embed(batch, tower=tower, batch_size=limit)
        while len(seconds) < _CALLS and sum(seconds) < _LONG_TURN_S:
            for batch in batches:
                started = clock()
                model.embed(batch, tower=tower, batch_size=limit)
                seconds.append(clock() - started)
    return seconds


def main(arguments: Sequence[str]) -> None:
    """Load the tower that the command line names, and take turns until standard input ends."""
    folder, tower, setting = arguments
    serve(_answers(Path(folder), cast("TowerName", tower), decode(TuneSetting, json.loads(setting), "setting")))


def _answers(folder: Path, tower: TowerName, setting: TuneSetting) -> Iterator[dict[str, Any]]:
    try:
        model, found = open_model(folder, tower, setting)
        items, _ = read_golden(folder, model.manifest, tower)
    except EmbeddingBackbonesError as exc:
        yield {"error": str(exc)}
        return
    yield {"min_cosine": found.agreement.min_cosine, "floor": found.tolerance.min_cosine}
    for batch_size in questions():
        try:
            answer: dict[str, Any] = {"seconds": take_turn(model, items, int(batch_size))}
        except EmbeddingBackbonesError as exc:
            answer = {"error": str(exc)}
        yield answer


if __name__ == "__main__":
    main(sys.argv[1:])
