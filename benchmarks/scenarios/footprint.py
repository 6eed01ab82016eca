"""What an installation weighs, and how long it takes until a text model is loaded: the runtime beside its peer.

The weight is that of every file that pip installs for a distribution and all that it needs, as pip recorded them. So a
fresh environment with that distribution alone has this size, less Python and pip themselves.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime import console
from runtime.errors import EmbeddingBackbonesError

_RESIDENT = "int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20"
_PROGRAM = """
import json, os, sys, time
started = time.perf_counter()
{imports}
imported = time.perf_counter()
model = {load}
loaded = time.perf_counter()
print(json.dumps([imported - started, loaded - imported, {resident}]))
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is weighed.

    Attributes:
        name: What the table calls it.
        distributions: What is installed for it, with extras.
        imports: Lines of Python that import it.
        load: An expression of Python that loads the model.
    """

    name: str
    distributions: tuple[str, ...]
    imports: str
    load: str


def main(argv: Sequence[str] | None = None) -> int:
    """Weighs and times, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.footprint", description=__doc__)
    parser.add_argument("artifact", type=Path, help="a text artifact")
    parser.add_argument("--sentence-transformers", type=Path, metavar="FOLDER", help="the model for the peer")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return console.run(lambda: _measure(arguments.artifact, arguments.sentence_transformers, arguments.rounds))


def _measure(artifact: Path, peer: Path | None, rounds: int) -> int:
    subjects = [
        Subject(
            name="embedding-backbones[cpu]",
            distributions=("embedding-backbones[cpu]",),
            imports="import runtime",
            load=f"runtime.load({str(artifact)!r}, provider='cpu')",
        )
    ]
    if peer is not None:
        subjects.append(
            Subject(
                name="sentence-transformers",
                distributions=("sentence-transformers",),
                imports="from sentence_transformers import SentenceTransformer",
                load=f"SentenceTransformer({str(peer)!r}, device='cpu')",
            )
        )
    starts: list[list[list[float]]] = [[] for _ in subjects]
    for _ in range(max(1, rounds)):
        for subject, measured in zip(subjects, starts, strict=True):
            measured.append(_start(subject))
    rows = []
    for subject, measured in zip(subjects, starts, strict=True):
        imported, loaded, resident = (statistics.median(values) for values in zip(*measured, strict=True))
        weight = _weigh(subject.distributions) / 1e6
        rows.append([subject.name, f"{weight:.0f}", f"{imported:.2f}", f"{loaded:.2f}", f"{resident:.0f}"])
    print(console.table(["installation", "MB installed", "import s", "load s", "resident MiB"], rows))
    return 0


def _start(subject: Subject) -> list[float]:
    program = _PROGRAM.format(imports=subject.imports, load=subject.load, resident=_RESIDENT)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if run.returncode:
        raise EmbeddingBackbonesError(f"{subject.name} cannot be started: {run.stderr.strip().splitlines()[-1]}")
    times: list[float] = json.loads(run.stdout.splitlines()[-1])
    return times


def _weigh(names: Sequence[str]) -> int:
    """Returns the bytes of the files of the distributions of these names and all that they need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for name in names:
        found |= _closure(name)
    return sum(_size(distribution) for distribution in found.values())


def _closure(name: str) -> dict[str, importlib.metadata.Distribution]:
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
            continue  # a requirement of another platform
        todo += _needs(found[bare], extras)
    return found


def _needs(distribution: importlib.metadata.Distribution, extras: Sequence[str]) -> Iterator[str]:
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


def _size(distribution: importlib.metadata.Distribution) -> int:
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
