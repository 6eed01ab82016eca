"""Outputs that exist already: finished, of another job, or among the inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.cli import embed as command
from runtime.cli.options import load_model
from runtime.jobs.journal import work_folder


def test_a_run_that_is_complete_is_not_repeated(
    embed: Callable[..., int], embedded: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("a", "b", "-o", "v.npy", "--resume") == 0, "it starts a new job"
    assert embed("a", "b", "-o", "v.npy", "--resume") == 0
    assert "the job is finished, nothing is left to resume; --force" in capsys.readouterr().out
    assert embed("a", "b", "-o", "v.npy") == 1
    assert "v.npy exists; name another one, or replace it with --force" in capsys.readouterr().err
    assert embedded == ["a", "b"]
    assert embed("c", "-o", "v.npy", "--force") == 0
    assert np.load("v.npy").shape == (1, 24)


def test_a_run_that_was_killed_while_it_removed_its_folder_is_not_repeated(
    embed: Callable[..., int], embedded: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr("runtime.jobs.journal.shutil", SimpleNamespace(rmtree=lambda *_, **__: None))
        assert embed("a", "b", "-o", "v.npz") == 0
    assert [path.name for path in work_folder(Path("v.npz")).iterdir()] == ["journal.jsonl"], "the vectors went first"
    assert embed("a", "b", "-o", "v.npz", "--resume") == 0
    assert "the job is finished, nothing is left to resume" in capsys.readouterr().out
    assert embedded == ["a", "b"]
    assert not work_folder(Path("v.npz")).exists()


def test_the_output_is_no_input(embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    before = (tmp_path / "t.parquet").read_bytes()
    assert embed(".", "-o", "t.parquet", "--force") == 2
    assert "the output t.parquet is among the inputs" in capsys.readouterr().err
    assert (tmp_path / "t.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["c"], 'its inputs is ["a", "b"], but now it is ["c"]'),
        (["a", "b", "--normalize"], "its normalize is false, but now it is true"),
        (["a", "b", "--truncate-dim", "3"], "its truncate_dim is none, but now it is 3"),
        (["a", "b", "--dtype", "float16"], 'its dtype is "float32", but now it is "float16"'),
        (["a", "b", "--prompt", "query: "], 'its prompt is "", but now it is "query: "'),
    ],
)
@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
def test_a_finished_output_of_another_job_is_not_taken_for_this_one(
    name: str, words: list[str], message: str, embed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("a", "b", "-o", name) == 0
    assert embed(*words, "-o", name, "--resume") == 2
    assert f"{name} is finished, but it is another job: {message}; name another output" in capsys.readouterr().err


def test_an_output_that_tells_nothing_says_so(embed: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert embed("a", "-o", "v.npy") == 0
    assert embed("b", "-o", "v.npy", "--resume") == 0
    assert "v.npy does not tell which job made it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("v.npz", [], "v.npz is not the output of a job: it has no record of one; name another output"),
        ("v.parquet", [], "v.parquet is not the output of a job: it has no record of one; name another output"),
        ("v.npy", ["--dtype", "float16"], "it holds float32 [1, 24], but float16 [rows, 24] is expected"),
        ("v.npy", ["--dtype", "binary"], "it holds float32 [1, 24], but int8 [rows, 3] is expected"),
        ("v.npy", ["--truncate-dim", "3"], "it holds float32 [1, 24], but float32 [rows, 3] is expected"),
    ],
)
def test_a_file_of_no_such_job_is_not_called_finished(
    name: str, words: list[str], message: str, embed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("v.npy", np.ones((1, 24), np.float32))
    np.savez("v.npz", vectors=np.ones((1, 24), np.float32))
    pq.write_table(pa.table({"text": ["a"]}), "v.parquet")
    assert embed("a", "-o", name, *words, "--resume") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_an_output_that_appears_while_the_model_is_loaded_is_kept(
    resume: list[str], embed: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "v.npy").write_bytes(b"of another process")
        return load_model(*arguments, **options)

    monkeypatch.setattr(command, "load_model", load)
    assert embed("a", "-o", "v.npy", *resume) == 1
    assert (tmp_path / "v.npy").read_bytes() == b"of another process"
    assert not work_folder(tmp_path / "v.npy").exists()
    assert embed("a", "-o", "v.npy", *resume, "--force") == 0


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
def test_a_finished_output_of_other_ranges_is_not_taken_for_this_one(
    name: str, embed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = -np.ones(24, np.float32), np.ones(24, np.float32)
    np.save("same.npy", np.stack([low, high]))
    np.save("wider.npy", np.stack([low, 2 * high]))
    words = ["a", "b", "-o", name, "--dtype", "int8"]
    assert embed(*words, "--ranges", "same.npy") == 0
    assert embed(*words, "--ranges", "same.npy", "--resume") == 0
    assert embed(*words, "--resume") == 0
    assert embed(*words, "--ranges", name, "--resume") == 0, "an output of int8 holds ranges, too"
    assert embed(*words, "--ranges", "wider.npy", "--resume") == 2
    assert f"{name} is finished, but it is another job: its ranges are not those of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], None),
        (["--provider", "openvino"], None),
        (["--provider", "cpu"], 'its precision is "bf16", but now it is "float32"'),
        (["--provider", "openvino", "--provider-option", "dtype=bf16"], None),
        (["--provider", "openvino", "--provider-option", "dtype=fp32"], 'its precision is "bf16", but now it is'),
    ],
)
def test_a_finished_output_of_another_precision_is_not_taken_for_this_one(
    words: list[str],
    message: str | None,
    embed: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed("a", "-o", "v.parquet") == 0
    table = pq.read_table(tmp_path / "v.parquet")
    origin = table.schema.metadata[b"origin"].replace(b'"precision": "float32"', b'"precision": "bf16"')
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"origin": origin}), tmp_path / "v.parquet")
    assert embed("a", "-o", "v.parquet", "--resume", *words) == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err
