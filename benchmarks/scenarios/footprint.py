"""Measure installation size and start time: ``python -m benchmarks footprint``.

The size is that of all files that pip recorded for a distribution and its requirements. It equals the size of a fresh
environment with this distribution, without Python and pip.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # noqa: F401  the measured process needs it; so a missing one is named before the measurement

from runtime import console
from runtime.arguments import ArgumentParser, parse_count, parse_path
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.machine.child_process import listen

_TIMEOUT_S = 600.0  # of one start
_PROGRAM = """
import json, time
started = time.perf_counter()
{imports}
imported = time.perf_counter()
model = {load}
loaded = time.perf_counter()
import psutil
resident = psutil.Process().memory_info().rss / 2**20
print(json.dumps({{"seconds and MiB": [imported - started, loaded - imported, resident]}}))
"""


@dataclass(frozen=True)
class Installation:
    """Library whose installation is measured."""

    name: str  # distribution to install, with extras.
    imports: str  # Python statements that import the library.
    load: str  # Python expression that loads the model.


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks footprint``."""
    parser = ArgumentParser(
        prog="python -m benchmarks footprint",
        description="Measure installed size, import time, load time and resident memory of the runtime, and of "
        "sentence-transformers to compare.",
    )
    parser.add_argument("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of a text artifact")
    parser.add_argument(
        "--sentence-transformers",
        type=parse_path,
        metavar="FOLDER",
        help="Also measure sentence-transformers with the model in this folder (default: measure the runtime only)",
    )
    parser.add_argument(
        "--rounds", type=parse_count, default=5, metavar="N", help="Starts per library (default: %(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    options = build_parser().parse_args(arguments)
    return _measure(options.artifact, options.sentence_transformers, options.rounds)


def _measure(artifact: Path, peer: Path | None, rounds: int) -> int:
    if peer is not None and not peer.is_dir():
        raise UsageError(f"{peer} is not a folder; name the folder of a model of sentence-transformers")
    ours = f"runtime.load({str(artifact)!r}, provider='cpu')"
    installations = [Installation("embedding-backbones[cpu]", "import runtime", ours)]
    if peer is not None:
        imports = "from sentence_transformers import SentenceTransformer"
        theirs = f"SentenceTransformer({str(peer)!r}, device='cpu')"
        installations.append(Installation("sentence-transformers", imports, theirs))
    sizes = [installed_bytes(installation.name) for installation in installations]
    starts: list[list[list[float]]] = [[] for _ in installations]
    for _ in range(rounds):
        for installation, measured in zip(installations, starts, strict=True):
            measured.append(measure_start(installation))
    rows = []
    for installation, size, measured in zip(installations, sizes, starts, strict=True):
        figures = [
            _spread(values, digits) for values, digits in zip(zip(*measured, strict=True), (2, 2, 0), strict=True)
        ]
        rows.append([installation.name, f"{size / 1e6:.0f}", *figures])
    print(console.table(["installation", "MB installed", "import s", "load s", "resident MiB"], rows))
    print(f"Median of {rounds} starts, and their range.")
    return 0


def _spread(values: Sequence[float], digits: int) -> str:
    """Return the median of ``values``, and their range: ``0.35 (0.34 to 0.41)``."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def measure_start(installation: Installation) -> list[float]:
    """Return import seconds, load seconds and resident MiB of a fresh process.

    Raises:
        EmbeddingBackbonesError: The process fails.
    """
    program = _PROGRAM.format(imports=installation.imports, load=installation.load)
    answer = listen([sys.executable, "-c", program], timeout_s=_TIMEOUT_S)
    if answer.failure:
        raise EmbeddingBackbonesError(f"cannot start {installation.name}: it {answer.failure}")
    figures: list[float] = answer.facts["seconds and MiB"]
    return figures


def installed_bytes(name: str) -> int:
    """Return the size of the files of the distribution ``name``, which may have extras, and its requirements.

    Raises:
        EmbeddingBackbonesError: One of them is not installed, or the list of its files is missing.
    """
    return sum(map(size_bytes, with_requirements(name).values()))


def with_requirements(name: str) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distribution ``name``, which may have extras, and all its requirements, by name.

    Raises:
        EmbeddingBackbonesError: One of them is not installed.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    todo, seen = [name], set()
    while todo:
        word = todo.pop()
        if word in seen:
            continue
        seen.add(word)
        bare, extras = _split(word)
        try:
            found[bare] = importlib.metadata.distribution(bare)
        except importlib.metadata.PackageNotFoundError:
            raise EmbeddingBackbonesError(
                f"the size of {name} is unknown, because {bare} is not installed; run pip install '{name}'"
            ) from None
        todo += _requirements(found[bare], extras)
    return found


def _requirements(distribution: importlib.metadata.Distribution, extras: Sequence[str]) -> Iterator[str]:
    from packaging.requirements import Requirement  # comes with transformers

    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            wanted = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            yield f"{requirement.name}{wanted}"


def _split(word: str) -> tuple[str, list[str]]:
    name, _, extras = word.partition("[")
    canonical = re.sub(r"[-_.]+", "-", name).lower()
    return canonical, [extra for extra in extras.rstrip("]").split(",") if extra]


def size_bytes(distribution: importlib.metadata.Distribution) -> int:
    """Return the size of the files that pip recorded for a distribution.

    Raises:
        EmbeddingBackbonesError: Another tool installed it, and recorded no files.
    """
    if distribution.files is None:
        raise EmbeddingBackbonesError(f"{distribution.name} has no list of its files; install it with pip")
    if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
        print(f"WARNING: {distribution.name} is editable, so its own files are not counted", file=sys.stderr)
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files]
    return sum(path.stat().st_size for path in paths if path.is_file())
