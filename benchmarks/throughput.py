"""Items in, vectors out: the runtime against what else people use, end to end.

Each contestant is a process of its own; they take turns, so that whatever else the machine does hits all alike.
Compare the ratios and not the times of two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exporters.docstrings import load_texts
from runtime import console
from runtime.agreement import measure_agreement, near_one
from runtime.artifact import read_manifest
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.preprocess import IMAGE_SUFFIXES

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a contestant is started with.

    Attributes:
        name: What the table calls it.
        kind: One of :data:`benchmarks.contestant.CONTESTANTS`.
        model: Its artifact or folder, or ``BACKBONE=WEIGHTS`` for torch.
        provider: Execution provider or device.
        variant: The artifact's graph, or torch's way to run.
        python: The interpreter of its environment.
    """

    name: str
    kind: str
    model: str
    provider: str = "cpu"
    variant: str = "auto"
    python: str = sys.executable


@dataclass(kw_only=True)
class Contestant:
    """A contestant that is running.

    Attributes:
        entry: What it was started with.
        vectors: Where it wrote its vectors.
        load_s: Seconds until it was loaded.
        seconds: Of each round.
        peak_mb: Its largest resident memory so far, in MiB.
    """

    entry: Entry
    vectors: Path
    process: subprocess.Popen[str]
    load_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def read(self) -> dict[str, float]:
        """Returns its next answer.

        Raises:
            EmbeddingBackbonesError: It has ended.
        """
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise EmbeddingBackbonesError(f"{self.entry.name} has ended early; what it said is above")
        answer: dict[str, float] = json.loads(line)
        return answer

    def run_round(self) -> None:
        """Lets it embed everything once."""
        if self.process.stdin is None:
            raise EmbeddingBackbonesError(f"{self.entry.name} cannot be told anything")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.read()
        self.seconds.append(answer["seconds"])
        self.peak_mb = answer["peak_mb"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the command line names and prints its table."""
    arguments = _parser().parse_args(argv)
    return console.run(lambda: _benchmark(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("artifact", type=Path, help="a text or an image artifact")
    parser.add_argument("--items", type=int, default=600, help="how many of them (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contestant runs (default: %(default)s)")
    parser.add_argument("--sentence-transformers", type=Path, metavar="FOLDER", help="the model for the peer")
    parser.add_argument("--openvino-python", metavar="PYTHON", help="of an environment with the extra [openvino]")
    parser.add_argument("--variants", nargs="+", default=["auto"], help="the artifact's graphs (default: auto)")
    parser.add_argument("--photos", type=Path, help="a folder of image files (default: the six that exporters brings)")
    return parser


def _benchmark(arguments: argparse.Namespace) -> int:
    towers = read_manifest(arguments.artifact).towers
    if arguments.items < 1 or arguments.rounds < 1:
        raise UsageError("--items and --rounds must be 1 or more")
    artifact = str(arguments.artifact.absolute())
    entries = [
        Entry(name=_name("runtime, cpu", variant), kind="runtime", model=artifact, variant=variant)
        for variant in arguments.variants
    ]
    if "text" in towers:
        items = load_texts(arguments.items)
        if arguments.sentence_transformers:
            peer = Entry(
                name="sentence-transformers, torch fp32",
                kind="sentence-transformers",
                model=str(arguments.sentence_transformers.absolute()),
            )
            entries.insert(0, peer)
    else:
        items = _photos(arguments.photos, arguments.items)
        entries.insert(0, Entry(name="the graph alone, cpu", kind="graph", model=artifact))
    if arguments.openvino_python:
        entries.append(
            Entry(
                name="runtime, openvino",
                kind="runtime",
                model=artifact,
                provider="openvino",
                python=arguments.openvino_python,
            )
        )
    with tempfile.TemporaryDirectory() as scratch:
        listing = Path(scratch) / "items.json"
        listing.write_text(json.dumps(items), "utf-8")
        contestants = run(entries, listing, arguments.rounds, Path(scratch))
        print(describe(contestants, len(items)))
    return 0


def _name(contestant: str, variant: str) -> str:
    return contestant if variant == "auto" else f"{contestant}, {variant}"


def _photos(folder: Path | None, count: int) -> list[str]:
    folder = folder or _ROOT / "exporters" / "photos"
    photos = sorted(str(path.absolute()) for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        raise UsageError(f"there are no photos in {folder}; name another folder by --photos")
    return [photos[index % len(photos)] for index in range(count)]


def run(entries: Sequence[Entry], items: Path, rounds: int, scratch: Path) -> list[Contestant]:
    """Starts a process for each entry and lets them take turns; what they wrote is in ``scratch``.

    Raises:
        EmbeddingBackbonesError: One has ended early.
    """
    contestants: list[Contestant] = []
    try:
        for number, entry in enumerate(entries):
            contestants.append(_start(entry, items, scratch / f"{number}.npy"))
            contestants[-1].load_s = contestants[-1].read()["load_s"]
        for _ in range(rounds):
            for contestant in contestants:
                contestant.run_round()
    finally:
        for contestant in contestants:
            contestant.process.kill()
            contestant.process.communicate()
    return contestants


def _start(entry: Entry, items: Path, vectors: Path) -> Contestant:
    words = [entry.kind, entry.model, str(items), entry.provider, entry.variant, str(vectors)]
    process = subprocess.Popen(
        [entry.python, "-m", "benchmarks.contestant", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "true"},
    )
    return Contestant(entry=entry, vectors=vectors, process=process)


def describe(contestants: Sequence[Contestant], count: int) -> str:
    """Returns a table of ``count`` items a round, held against the first contestant."""
    reference = np.load(contestants[0].vectors)
    rows: list[list[Any]] = []
    for contestant in contestants:
        ratios = [first / own for first, own in zip(contestants[0].seconds, contestant.seconds, strict=True)]
        agreement = measure_agreement(reference, np.load(contestant.vectors))
        rows.append(
            [
                contestant.entry.name,
                f"{count / statistics.median(contestant.seconds):.1f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                near_one(agreement.min_cosine),
                f"{contestant.load_s:.2f}",
                f"{contestant.peak_mb:.0f}",
            ]
        )
    header = ["contestant", "items/s, median", "ratio to the first", "min cosine", "load s", "peak MiB"]
    return console.table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
