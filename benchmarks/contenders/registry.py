"""The contenders by name, each loaded only when it takes part."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks.contenders.protocol import Contender, Subject, Way
from benchmarks.results.schema import Skipped

# The order is that of tables. A module offers `find` and `load`, see `benchmarks.contenders.protocol`.
CONTENDERS: dict[str, str] = {
    "runtime": "benchmarks.contenders.runtime",
    "torch": "benchmarks.contenders.torch",
    "sentence-transformers": "benchmarks.contenders.sentence_transformers",
    "optimum": "benchmarks.contenders.optimum",
    "fastembed": "benchmarks.contenders.fastembed",
    "openvino": "benchmarks.contenders.openvino",
}


def find_ways(subject: Subject, names: tuple[str, ...]) -> tuple[list[Way], list[Skipped]]:
    """Returns how the contenders of these names can embed with ``subject`` here, and which of them cannot."""
    ways: list[Way] = []
    skipped: list[Skipped] = []
    for name in names:
        found, missing = _module(name).find(subject)
        ways += found
        skipped += missing
    return ways, skipped


def load(way: Way, threads: int, scratch: Path) -> Contender:
    """Returns what ``way`` names, loaded in this process.

    Args:
        way: Which contender, and how.
        threads: Threads that it may use.
        scratch: A folder for what it has to write.

    Raises:
        EmbeddingBackbonesError: It cannot be loaded; the message says why.
    """
    contender: Contender = _module(way.contender).load(way, threads, scratch)
    return contender


def _module(name: str) -> ModuleType:
    return import_module(CONTENDERS[name])
