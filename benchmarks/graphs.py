"""One batch through the graph alone: each variant of an artifact on the CPU provider against torch on the same inputs.

A process for each, in turns; see :mod:`benchmarks.throughput` for whole items, with their preparation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.throughput import Entry, describe, run
from exporters.corpus import MIN_ITEMS, load_corpus
from runtime import console
from runtime.artifact import read_manifest
from runtime.errors import UsageError
from runtime.manifest import Tower, TowerName
from runtime.preprocess import UnusableItemError
from runtime.session import SessionOptions
from runtime.tower import LoadedTower


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the command line names and prints its table."""
    arguments = _parser().parse_args(argv)
    return console.run(lambda: _benchmark(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description=__doc__)
    parser.add_argument("artifact", type=Path, help="the artifact")
    parser.add_argument("--tower", choices=["text", "image"], help="which, where there are two")
    parser.add_argument("--batch", type=int, default=8, help="items of the batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="times that each runs (default: %(default)s)")
    parser.add_argument("--weights", help="as they were given to the export; torch takes part if they are")
    parser.add_argument("--openvino-python", metavar="PYTHON", help="of an environment with the extra [openvino]")
    return parser


def _benchmark(arguments: argparse.Namespace) -> int:
    manifest = read_manifest(arguments.artifact)
    name = _one_tower(manifest.towers, arguments.tower)
    if arguments.batch < 1 or arguments.rounds < 1 or arguments.tokens < 3:
        raise UsageError("--batch and --rounds must be 1 or more, --tokens 3 or more")
    variants = manifest.towers[name].variants.keys()
    entries = _torch_entries(manifest.backbone, arguments.weights) if arguments.weights else []
    entries += _entries(arguments.artifact, "cpu", ["fp32", *sorted(variants - {"fp16"})], sys.executable)
    if arguments.openvino_python:
        entries += _entries(
            arguments.artifact, "openvino", ["fp32", *sorted(variants & {"int8"})], arguments.openvino_python
        )
    with tempfile.TemporaryDirectory() as scratch:
        feeds = Path(scratch) / "feeds.npz"
        np.savez(feeds, allow_pickle=False, **_make_feeds(arguments, manifest.towers[name], name))
        print(describe(run(entries, feeds, arguments.rounds, Path(scratch)), arguments.batch))
    return 0


def _one_tower(towers: Mapping[TowerName, Tower], asked: TowerName | None) -> TowerName:
    if asked is None and len(towers) > 1:
        raise UsageError(f"the artifact has {' and '.join(towers)}; say which by --tower")
    name = next(iter(towers)) if asked is None else asked
    if name not in towers:
        raise UsageError(f"there is no {name} tower; the artifact has {' and '.join(towers)}")
    return name


def _torch_entries(backbone: str, weights: str) -> list[Entry]:
    ways = {"eager": "torch eager, fp32", "bf16": "torch autocast, bf16", "compile": "torch.compile, fp32"}
    return [Entry(name=name, kind="torch", model=f"{backbone}={weights}", variant=way) for way, name in ways.items()]


def _entries(artifact: Path, provider: str, variants: Sequence[str], python: str) -> list[Entry]:
    return [
        Entry(
            name=f"{variant}, {provider}",
            kind="batch",
            model=str(artifact.absolute()),
            provider=provider,
            variant=variant,
            python=python,
        )
        for variant in variants
    ]


def _make_feeds(arguments: argparse.Namespace, tower: Tower, name: TowerName) -> dict[str, np.ndarray[Any, Any]]:
    """Returns a batch of real items as the graph takes it; texts, several joined where one is too short, are cut."""
    loaded = LoadedTower(arguments.artifact, tower, SessionOptions(provider="cpu", variant="fp32"))
    items = load_corpus(name, None, max(MIN_ITEMS, arguments.batch)).held_out
    if name == "text":
        items = [" ".join([*items[index:], *items[:index]]) for index in range(len(items))]
    rows = [row for row in loaded.prepare(items) if not isinstance(row, UnusableItemError)]
    feeds = loaded.collate(rows[: arguments.batch])
    if name == "text":
        feeds = {key: array[:, : arguments.tokens] for key, array in feeds.items()}
    return feeds


if __name__ == "__main__":
    sys.exit(main())
