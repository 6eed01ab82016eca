"""What people use instead of this project: what their adapters have in common."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.contenders.protocol import Subject, Way
from benchmarks.results.schema import Skipped
from runtime.errors import EmbeddingBackbonesError, UsageError, one_line

Array = np.ndarray[Any, Any]
_HAS = "import sys; from importlib.metadata import version; [version(name) for name in sys.argv[1:]]"


class PeerError(EmbeddingBackbonesError):
    """Another library cannot embed with a model here; the message says why, and the way out if there is one."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another library with its model loaded: a :class:`benchmarks.contenders.protocol.Contender`.

    Attributes:
        name: What the library is called.
        from_arrays: Embeds the graph's inputs; ``None`` if the library has no such function.
        from_items: Embeds texts; ``None`` as above.
    """

    name: str
    from_arrays: Callable[[Mapping[str, Array]], Any] | None = None
    from_items: Callable[[list[str]], Any] | None = None

    def embed_arrays(self, arrays: Mapping[str, Array]) -> Array:
        """Returns vectors ``[batch, output_dim]`` float32 of the graph's inputs, by name.

        Raises:
            PeerError: The library takes no arrays, or fails.
        """
        if self.from_arrays is None:
            raise PeerError(f"{self.name} is measured end to end alone: it takes strings, not arrays")
        with reporting(self.name, "embed a batch"):
            return np.asarray(self.from_arrays(arrays), dtype=np.float32)

    def embed_items(self, items: Sequence[Any]) -> Array:
        """Returns vectors ``[items, output_dim]`` float32 of texts.

        Raises:
            PeerError: The library has no preparation of its own, or fails.
        """
        if self.from_items is None:
            raise PeerError(f"{self.name} is measured by its graph alone: it takes arrays, not strings")
        with reporting(self.name, "embed texts"):
            return np.asarray(self.from_items(list(items)), dtype=np.float32)

    def take_apart(self, items: Sequence[Any]) -> dict[str, float]:
        """Returns nothing: where another library spends its time cannot be told from outside."""
        return {}


def find_ways(
    subject: Subject, contender: str, makers: Mapping[str, Callable[[Subject], Way]]
) -> tuple[list[Way], list[Skipped]]:
    """Asks ``makers`` for a way to embed with ``subject`` each.

    Args:
        subject: What is embedded with.
        contender: The library.
        makers: By variant; one raises :class:`PeerError` where its variant cannot be measured.

    Returns:
        The ways there are, and why there are no others.
    """
    ways, skipped = [], []
    for variant, make in makers.items():
        try:
            ways.append(make(subject))
        except PeerError as exc:
            skipped.append(Skipped(name=f"{subject.manifest.name}: {contender} {variant}", reason=str(exc)))
    return ways, skipped


def find_python(subject: Subject, name: str, packages: Sequence[str]) -> str:
    """Returns the interpreter of an environment that has all of ``packages``: the one named for it, else this one.

    Args:
        subject: Whose ``pythons`` are other environments.
        name: What the other environment is called there.
        packages: Distributions, as pip names them.

    Raises:
        PeerError: Neither has them.
        UsageError: The interpreter that was named cannot be started.
    """
    named = subject.pythons.get(name)
    for python in filter(None, (named, sys.executable)):
        if has_packages(python, tuple(packages)):
            return python
    where = f"here or in the environment of {named}" if named else "here"
    raise PeerError(
        f"{_both(packages)} not installed {where}: pip install {' '.join(packages)}, in an environment of its own if "
        f"pins clash, which is named by --python {name}=PYTHON"
    )


@functools.cache
def has_packages(python: str, packages: tuple[str, ...]) -> bool:
    """Tells whether the environment of ``python`` has all of these distributions, without importing them.

    Raises:
        UsageError: The interpreter cannot be started.
    """
    if python == sys.executable:
        return all(map(_is_installed, packages))
    try:
        return subprocess.run([python, "-P", "-c", _HAS, *packages], capture_output=True, check=False).returncode == 0
    except OSError as exc:
        raise UsageError(
            f"{python} cannot be started ({exc.strerror}); name the interpreter of an environment"
        ) from exc


def limit_tokenizers(threads: int) -> None:
    """Lets the ``tokenizers`` library use so many threads; to be called before its first batch.

    Source: https://docs.rs/rayon/latest/rayon/struct.ThreadPoolBuilder.html#method.num_threads
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)


@contextmanager
def reporting(name: str, deed: str) -> Iterator[None]:
    """Turns whatever another library raises into a :class:`PeerError` that says what failed.

    Args:
        name: What the library is called.
        deed: What it does within the block, such as ``load FOLDER``.
    """
    try:
        yield
    except EmbeddingBackbonesError:
        raise
    except Exception as exc:  # each library has errors of its own
        raise PeerError(f"{name} cannot {deed} ({type(exc).__name__}: {one_line(exc)})") from exc


def _is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _both(packages: Iterable[str]) -> str:
    names = list(packages)
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
