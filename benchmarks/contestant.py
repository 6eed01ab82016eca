"""A process that embeds the same items again and again, when it is told to: one contestant of an interleaved run.

Reads a line from standard input for each round and answers with the seconds that it took.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Embed = Callable[[], np.ndarray[Any, Any]]


def _runtime(folder: str, items: list[str], provider: str) -> Embed:
    import runtime

    model = runtime.load(folder, provider=provider)
    kind = model.towers[0]
    return lambda: model.embed(items, tower=kind)


def _graph_alone(folder: str, items: list[str], provider: str) -> Embed:
    """The graph on images that are decoded already, in the batches that the runtime makes."""
    import runtime
    from runtime.pipeline import Pipeline

    model = runtime.load(folder, provider=provider)
    backend = model._backend  # noqa: SLF001  what the runtime does less its preprocessing
    if not isinstance(backend, Pipeline):
        raise TypeError("only a pipeline in this process has a graph to run alone")
    tower = next(iter(backend.towers.values()))
    rows = tower.prepare(items)
    size = tower.portions.budget
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return lambda: np.concatenate([tower.embed(batch) for batch in batches])


def _sentence_transformers(folder: str, items: list[str], provider: str) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    from runtime.threads import available_threads

    torch.set_num_threads(available_threads())
    model = SentenceTransformer(folder, device=provider)
    return lambda: np.asarray(model.encode(items, show_progress_bar=False))


CONTESTANTS: dict[str, Callable[[str, list[str], str], Embed]] = {
    "runtime": _runtime,
    "graph": _graph_alone,
    "sentence-transformers": _sentence_transformers,
}


def main(arguments: Sequence[str]) -> None:
    """Serves rounds: ``KIND MODEL ITEMS.json PROVIDER VECTORS.npy``."""
    kind, folder, items, provider, output = arguments
    texts = json.loads(Path(items).read_text("utf-8"))
    started = time.perf_counter()
    embed = CONTESTANTS[kind](folder, texts, provider)
    loaded = time.perf_counter() - started
    np.save(output, embed())  # which warms up, too
    _say({"load_s": loaded})
    for _ in sys.stdin:
        started = time.perf_counter()
        embed()
        seconds = time.perf_counter() - started
        _say({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def _say(answer: dict[str, float]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
