"""Packages that seem to be installed, and a toy to measure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.contenders import peer as peers
from benchmarks.contenders import sentence_transformers
from benchmarks.contenders.protocol import Target
from benchmarks.results.schema import PythonEnvironment
from runtime.artifact.reader import read_manifest
from tests.benchmarks.contenders.samples import ADAPTERS, OTHER, with_tower


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Packages that each interpreter seems to have; tests fill it."""
    packages: dict[str, set[str]] = {sys.executable: set(), OTHER: set()}
    monkeypatch.setattr(
        peers, "survey", lambda python: PythonEnvironment(python="3", packages=dict.fromkeys(packages[python], "1"))
    )
    for adapter in ADAPTERS:
        if hasattr(adapter, "bf16_units"):
            monkeypatch.setattr(adapter, "bf16_units", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(sentence_transformers, "gpu_names", lambda: ())
    return packages


@pytest.fixture
def target(exported_text: Path, tmp_path: Path) -> Target:
    """A toy with a folder in the layout of sentence-transformers as its weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/modules.json").write_text("[]")
    manifest = read_manifest(exported_text)
    target = Target(folder=exported_text, manifest=manifest, tower="text", weights=str(tmp_path / "model"))
    return with_tower(target, replace(manifest.towers["text"], decided_by="checkpoint"))


@pytest.fixture
def kept_threads() -> Iterator[None]:
    """Restore the number of torch's threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
