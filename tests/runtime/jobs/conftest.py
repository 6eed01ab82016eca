"""The command ``embed`` with a toy artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.cli.main import main


@pytest.fixture
def embed(exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run embed on the toy text artifact, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: main(["embed", str(exported_text), *map(str, words)])


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record all items that an embedder reads."""
    seen: list[Any] = []
    stream = runtime.Embedder.stream

    def watch(self: runtime.Embedder, items: Iterable[Any], *options: Any) -> Any:
        def note() -> Iterator[Any]:
            for item in items:
                seen.append(item)
                yield item

        return stream(self, note(), *options)

    monkeypatch.setattr(runtime.Embedder, "stream", watch)
    return seen
