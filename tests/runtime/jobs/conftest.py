"""The command ``embed`` with toy artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.cli.main import main
from tests.runtime.spaces import add_variants
from tests.runtime.toy_artifact import write_artifact


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an artifact with a variant in int8, and work in the folder beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("a b\nc\n\n" + "d " * 60 + "\na\n")
    return add_variants(write_artifact(tmp_path / "toy", image=True, prompts={"query": "query : "}), "int8")


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
