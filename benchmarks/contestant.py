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


def _runtime(folder: str, items: Path, provider: str, variant: str) -> Embed:
    import runtime

    texts = _read(items)
    model = runtime.load(folder, provider=provider, variant=variant)
    kind = model.towers[0]
    return lambda: model.embed(texts, tower=kind)


def _graph_alone(folder: str, items: Path, provider: str, variant: str) -> Embed:
    """The graph on images that are decoded already, in the batches that the runtime makes."""
    import runtime
    from runtime.pipeline import Pipeline

    model = runtime.load(folder, provider=provider, variant=variant)
    backend = model._backend  # noqa: SLF001  what the runtime does less its preprocessing
    if not isinstance(backend, Pipeline):
        raise TypeError("only a pipeline in this process has a graph to run alone")
    tower = next(iter(backend.towers.values()))
    rows = tower.prepare(_read(items))
    size = tower.portions.budget
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return lambda: np.concatenate([tower.embed(batch) for batch in batches])


def _one_batch(folder: str, feeds: Path, provider: str, variant: str) -> Embed:
    """A variant's graph on inputs that are there already."""
    from runtime.artifact import read_manifest
    from runtime.session import Session, SessionOptions

    arrays = dict(np.load(feeds))
    towers = read_manifest(Path(folder)).towers.values()
    tower = next(tower for tower in towers if {spec.name for spec in tower.inputs} == arrays.keys())
    session = Session(Path(folder), tower, SessionOptions(provider=provider, variant=variant))
    return lambda: session.run(arrays)


def _torch(model: str, feeds: Path, provider: str, variant: str) -> Embed:
    """What the graph was traced from, named as ``BACKBONE=WEIGHTS``, run in one of torch's ways."""
    import torch

    from exporters.registry import find_backbone
    from exporters.spec import ExportOptions
    from exporters.towers.load import load_towers
    from runtime.threads import available_threads

    arrays = np.load(feeds)
    name, _, weights = model.partition("=")
    towers = load_towers(find_backbone(name), ExportOptions(weights=weights), any_family=True)
    tower = next(each for each in towers if {spec.name for spec in each.record.inputs} == set(arrays.files))
    module = tower.module().eval()
    inputs = [torch.from_numpy(arrays[given.spec.name]) for given in tower.inputs()]
    torch.set_num_threads(available_threads())
    call = torch.compile(module) if variant == "compile" else module

    def embed() -> np.ndarray[Any, Any]:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=variant == "bf16"):
            vectors: np.ndarray[Any, Any] = call(*inputs).float().numpy()
        return vectors

    return embed


def _sentence_transformers(folder: str, items: Path, provider: str, variant: str) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    from runtime.threads import available_threads

    torch.set_num_threads(available_threads())
    model, texts = SentenceTransformer(folder, device=provider), _read(items)
    return lambda: np.asarray(model.encode(texts, show_progress_bar=False))


def _read(items: Path) -> list[str]:
    texts: list[str] = json.loads(items.read_text("utf-8"))
    return texts


CONTESTANTS: dict[str, Callable[[str, Path, str, str], Embed]] = {
    "runtime": _runtime,
    "graph": _graph_alone,
    "batch": _one_batch,
    "torch": _torch,
    "sentence-transformers": _sentence_transformers,
}


def main(arguments: Sequence[str]) -> None:
    """Serves rounds: ``KIND MODEL ITEMS PROVIDER VARIANT VECTORS.npy``; the items are .json, or .npz for one batch."""
    kind, model, items, provider, variant, output = arguments
    started = time.perf_counter()
    embed = CONTESTANTS[kind](model, Path(items), provider, variant)
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
