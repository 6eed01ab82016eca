"""A job says at its start that its memory will not suffice."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.artifact.protobuf import map_file
from runtime.artifact.reader import read_manifest
from runtime.cli import embed as command
from runtime.cli.main import main
from runtime.errors import UsageError
from runtime.jobs import memory_check
from runtime.jobs.memory_check import warn_of_memory
from runtime.machine.limits import Memory
from runtime.session import providers, session
from runtime.session.providers import PROVIDERS
from tests.runtime.toy_artifact import write_artifact

BATCH = "a smaller --batch-size or --provider cpu --provider-option memory_limit_bytes=BYTES"


def memory(left: int | None) -> Memory:
    return Memory(total=None, available=left, limit=None)


@pytest.mark.parametrize(
    ("left", "options", "message"),
    [
        (None, {}, None),
        (10**9, {}, None),
        (10**6, {}, f"may take 0.00 GB in one process, but 0.00 GB of memory are left, .* use {BATCH}"),
        (10**6, {"limit": 10**5}, None),
        (10**7, {"concurrent_batches": 3}, f"in one process, .* use --concurrent-batches 1 or {BATCH}"),
        (10**7, {"concurrent_batches": 3, "limit": 10**5}, None),
        (10**7, {"workers": 3}, f"may take 0.01 GB in 3 processes, .* use fewer --workers or {BATCH}"),
        (10, {"limit": 1}, "use a smaller model, or allow more memory"),
    ],
)
def test_too_little_memory_is_warned_of_with_a_way_out(
    left: int | None,
    options: dict[str, Any],
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = write_artifact(tmp_path / "toy")
    monkeypatch.setattr(memory_check, "examine_memory", lambda: memory(left))
    common: dict[str, Any] = {"batch_size": None, "limit": None, "workers": 1, "concurrent_batches": 1}
    warn_of_memory(folder, read_manifest(folder), None, **common | options)
    assert len(caplog.records) == (message is not None)
    assert re.search(message or "", caplog.text)


@pytest.mark.parametrize(
    ("words", "workers", "batches", "limit"),
    [
        ([], 1, 4, None),
        (["--threads", "3"], 1, 3, None),
        (["--workers", "2"], 2, 2, None),
        (["--concurrent-batches", "1"], 1, 1, None),
        (["--workers", "3", "--concurrent-batches", "2"], 3, 1, None),
        (["--provider-option", "memory_limit_bytes=500000"], 1, 1, 500000),
    ],
)
def test_as_many_batches_as_run_side_by_side_are_counted(
    words: list[str], workers: int, batches: int, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: dict[str, Any] = {}

    def count(*_: Any, **options: Any) -> None:
        counted.update(options)
        raise UsageError("enough")

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(session, "available_threads", lambda: 4)
    monkeypatch.setattr(command, "warn_of_memory", count)
    folder = write_artifact(tmp_path / "toy")
    assert main(["embed", str(folder), "a b", "-o", str(tmp_path / "v.npy"), "--provider", "cpu", *words]) == 2
    assert (counted["workers"], counted["concurrent_batches"], counted["limit"]) == (workers, batches, limit)


@pytest.mark.parametrize("obstacle", [None, "there is no driver"])
def test_batches_on_a_gpu_are_not_counted(
    obstacle: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise UsageError("enough")

    monkeypatch.setattr(providers, "available_providers", lambda: [PROVIDERS["cuda"], PROVIDERS["cpu"]])
    monkeypatch.setattr(providers, "find_provider_obstacle", lambda each: obstacle if each.name == "cuda" else None)
    monkeypatch.setattr(command, "load_model", load)
    monkeypatch.setattr(memory_check, "examine_memory", lambda: memory(10**6))
    folder = write_artifact(tmp_path / "toy")
    assert main(["embed", str(folder), "a b", "-o", str(tmp_path / "v.npy")]) == 2
    assert bool(caplog.records) is (obstacle is not None)


def test_a_damaged_graph_is_named_by_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_artifact(tmp_path / "toy")
    (folder / "text.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert main(["embed", str(folder), "a b", "-o", str(tmp_path / "v.npy")]) == 1
    assert "run `git lfs pull`" in capsys.readouterr().err


def test_a_graph_that_cannot_be_read_is_named_by_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        if path.name == "text.onnx":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return map_file(path)

    for module in ("graph_layout", "reader"):
        monkeypatch.setattr(f"runtime.artifact.{module}.map_file", refuse)
    folder = write_artifact(tmp_path / "toy")
    assert main(["embed", str(folder), "a b", "-o", str(tmp_path / "v.npy")]) == 1
    assert "text.onnx cannot be read (Permission denied); check its permissions" in capsys.readouterr().err


def test_the_command_embed_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = write_artifact(tmp_path / "toy"), tmp_path / "v.npy"
    monkeypatch.setattr(memory_check, "examine_memory", lambda: memory(10**6))
    assert main(["embed", str(folder), "a b", "-o", str(output)]) == 0
    assert BATCH in caplog.text
    caplog.clear()
    words = ["--provider", "cpu", "--provider-option", "memory_limit_bytes=500000"]
    assert main(["embed", str(folder), "a b", "-o", str(output), "--force", *words]) == 1, "4 MB do not fit"
    assert BATCH not in caplog.text
