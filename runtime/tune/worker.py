"""A process that embeds an artifact's golden items when it is told to: one contestant, loaded in one way.

``python -m runtime.tune.worker FOLDER TOWER PROVIDER VARIANT THREADS`` says how near it is to torch, reads a batch size
from standard input for each turn, and answers with what the turn took.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TextIO

from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.embedder import Embedder, without_truncation_warning
from runtime.loading.golden import read_golden, verify_towers
from runtime.loading.load import load

_CALLS = 4  # that a turn times, unless they are slow
_LONG_ENOUGH_S = 0.5


def open_model(folder: Path, tower: TowerName, provider: str, variant: str, threads: int) -> tuple[Embedder, float]:
    """Returns a tower, loaded as it is told, and its smallest cosine similarity to torch's golden vectors.

    Raises:
        EmbeddingBackbonesError: It cannot be loaded or embed here.
    """
    model = load(folder, provider=provider, variant=variant, threads=threads, tower=tower, check_hashes=False)
    return model, verify_towers(model, folder)[tower].agreement.min_cosine


def take_turn(
    model: Embedder, items: Sequence[Any], batch_size: int, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Returns the seconds of some calls of ``embed`` with ``batch_size`` items each.

    Calls go on where the one before ended, so that every item has its share of the time at any batch size. All of that
    is done once before it is timed, for what other processes have driven out of the caches.

    Args:
        model: What embeds.
        items: Which are repeated until a batch is full.
        batch_size: Items of a call, which go through the graph together.
        clock: Tells the time in seconds.

    Raises:
        EmbeddingBackbonesError: A batch cannot be embedded.
    """
    calls = len(items) // math.gcd(len(items), batch_size)
    endless = cycle(items)
    batches = [list(islice(endless, batch_size)) for _ in range(calls)]
    seconds: list[float] = []
    with without_truncation_warning():
        for batch in batches:
            model.embed(batch, tower=model.towers[0], batch_size=batch_size)
        while len(seconds) < _CALLS and sum(seconds) < _LONG_ENOUGH_S:
            for batch in batches:
                started = clock()
                model.embed(batch, tower=model.towers[0], batch_size=batch_size)
                seconds.append(clock() - started)
    return seconds


def main(arguments: Sequence[str]) -> None:
    """Loads what the command line names, and takes turns until standard input ends."""
    folder, tower, provider, variant, threads = arguments
    answers = _claim_output()
    try:
        model, min_cosine = open_model(Path(folder), tower_name(tower), provider, variant, int(threads))
        items, _ = read_golden(Path(folder), tower_name(tower), model.output_dim)
    except EmbeddingBackbonesError as exc:
        _say(answers, {"error": str(exc)})
        return
    _say(answers, {"min_cosine": min_cosine})
    for line in sys.stdin:
        try:
            _say(answers, {"seconds": take_turn(model, items, int(line))})
        except EmbeddingBackbonesError as exc:
            _say(answers, {"error": str(exc)})


def tower_name(name: str) -> TowerName:
    """Returns ``name``, which is known to be that of a tower."""
    return "text" if name == "text" else "image" if name == "image" else "mesh"


def _claim_output() -> TextIO:
    """Returns standard output, to which libraries that print can no longer write: theirs goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    """Answers; if nobody is there to read it, as after Ctrl-C, ends at once."""
    try:
        print(json.dumps(answer), file=answers, flush=True)
    except BrokenPipeError:
        os._exit(1)  # at an ordinary exit Python would complain of what it cannot flush


if __name__ == "__main__":
    main(sys.argv[1:])
