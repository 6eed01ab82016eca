"""Adapt another library to the interface of contenders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.contenders.environment import PACKAGES, survey
from benchmarks.contenders.protocol import Setup, Target
from benchmarks.results.schema import Skipped
from runtime.array_types import Array, Feeds
from runtime.artifact.manifest import TextPreprocessing, Tower
from runtime.errors import EmbeddingBackbonesError, one_line


class PeerError(EmbeddingBackbonesError):
    """Another library cannot embed with a model here; the message names the cause and, if possible, a remedy."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another library with its model loaded: a :class:`benchmarks.contenders.protocol.Contender`."""

    name: str
    # function that embeds the graph's inputs; `None` if the library has none.
    from_arrays: Callable[[Feeds], Any] | None = None
    from_items: Callable[[list[str]], Any] | None = None  # function that embeds texts; `None` if the library has none.

    def embed_arrays(self, arrays: Feeds) -> Array:
        """Return vectors ``[batch, output_dim]`` float32 of the graph's inputs, given by name.

        Raises:
            PeerError: The library takes no arrays, or fails.
        """
        if self.from_arrays is None:
            raise PeerError(f"{self.name} can only be measured end to end: it takes strings, not arrays")
        with reporting(self.name, "embed a batch"):
            return np.asarray(self.from_arrays(arrays), dtype=np.float32)

    def embed_items(self, items: Sequence[Any]) -> Array:
        """Return vectors ``[items, output_dim]`` float32 of texts.

        Raises:
            PeerError: The library has no preprocessing, or fails.
        """
        if self.from_items is None:
            raise PeerError(f"{self.name} can only be measured at the stage graph: it takes arrays, not strings")
        with reporting(self.name, "embed texts"):
            return np.asarray(self.from_items(list(items)), dtype=np.float32)

    def time_steps(self, items: Sequence[Any]) -> dict[str, float]:
        """Return nothing: the steps of another library cannot be timed from outside."""
        return {}


def collect_setups(
    target: Target, contender: str, makers: Mapping[str, Callable[[Target], Setup]]
) -> tuple[list[Setup], list[Skipped]]:
    """Make one setup per variant, and collect the reasons of those whose function raises :class:`PeerError`."""
    setups, skipped = [], []
    for variant, make in makers.items():
        try:
            setups.append(make(target))
        except PeerError as exc:
            skipped.append(Skipped(name=f"{target.manifest.name}: {contender} {variant}", reason=str(exc)))
    return setups, skipped


def find_python(target: Target, name: str, packages: Sequence[str]) -> str:
    """Return the interpreter of an environment with all ``packages``: ``target.pythons[name]``, else this one.

    Raises:
        PeerError: The environment lacks one of them. No other environment replaces one that the user named.
        UsageError: The named interpreter does not start.
    """
    if unlisted := [package for package in packages if package not in PACKAGES]:
        raise NotImplementedError(f"add {' and '.join(unlisted)} to PACKAGES in environment.py: results state versions")
    python = target.pythons.get(name, sys.executable)
    missing = [package for package in packages if package not in survey(python).packages]
    if not missing:
        return python
    are = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    if name in target.pythons:
        raise PeerError(f"{are} in the environment of {python}: {python} -m pip install {' '.join(missing)}")
    raise PeerError(
        f"{are} here: pip install {' '.join(missing)}; if versions conflict, "
        f"install into a separate environment and name it with --python {name}=PYTHON"
    )


def text_preprocessing(tower: Tower) -> TextPreprocessing:
    """Return the preprocessing of a text tower.

    Raises:
        PeerError: The tower embeds other items.
    """
    if not isinstance(tower.preprocessing, TextPreprocessing):
        raise PeerError(f"it embeds texts, not items of the kind {tower.preprocessing.kind}")
    return tower.preprocessing


@contextmanager
def reporting(name: str, action: str) -> Iterator[None]:
    """Turn any error of the library ``name`` into a :class:`PeerError` that names the action: ``load FOLDER``."""
    try:
        yield
    except EmbeddingBackbonesError:
        raise
    except Exception as exc:  # each library has its own errors
        raise PeerError(f"{name} cannot {action} ({type(exc).__name__}: {one_line(exc)})") from exc
