"""List the contenders by name. A contender's module is imported only if it takes part."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks.contenders.protocol import Contender, Setup, Target
from benchmarks.results.schema import Skipped

# Tables of a report follow this order. Each module has the functions `find` and `load`, and the tuple `VARIANTS`.
CONTENDERS: dict[str, str] = {
    "runtime": "benchmarks.contenders.runtime",
    "torch": "benchmarks.contenders.torch",
    "sentence-transformers": "benchmarks.contenders.sentence_transformers",
    "optimum": "benchmarks.contenders.optimum",
    "fastembed": "benchmarks.contenders.fastembed",
    "openvino": "benchmarks.contenders.openvino",
}
PEERS = tuple(name for name in CONTENDERS if name not in ("runtime", "torch"))  # other libraries


def variants_of(name: str) -> tuple[str, ...]:
    """Return all variants that the contender ``name`` can have, for any tower and machine."""
    variants: tuple[str, ...] = _module(name).VARIANTS
    return variants


def find_setups(target: Target, names: tuple[str, ...]) -> tuple[list[Setup], list[Skipped]]:
    """Return the setups of the contenders ``names`` that can embed with ``target`` here, and those that cannot."""
    found = [_module(name).find(target) for name in names]
    return [setup for setups, _ in found for setup in setups], [each for _, skipped in found for each in skipped]


def load(setup: Setup, threads: int, scratch: Path) -> Contender:
    """Load a contender in this process. Its temporary files go to ``scratch``.

    Raises:
        EmbeddingBackbonesError: It cannot be loaded; the message names the cause.
    """
    contender: Contender = _module(setup.contender).load(setup, threads, scratch)
    return contender


def _module(name: str) -> ModuleType:
    return import_module(CONTENDERS[name])
