from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import runtime
from runtime.ray_jobs.job import RayJob, worker_variant
from tests.paths import ROOT

ROWS_OF_FILES = (700, 1, 900, 0, 399)
TEXTS = [" ".join(["a b", "cat", "on the", "red tree"][: 1 + i % 4]) + f" {i}" for i in range(sum(ROWS_OF_FILES))]
MARK = "EMBED_ON_RAY_TEST"
pytestmark = pytest.mark.ray


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of parquet files of different lengths, one of them empty. Do not write to it."""
    folder = tmp_path_factory.mktemp("texts")
    start = 0
    for number, rows in enumerate(ROWS_OF_FILES):
        ids = pa.array(range(start, start + rows), pa.int64())
        table = pa.table({"id": ids, "text": pa.array(TEXTS[start : start + rows], pa.string())})
        parquet.write_table(table, folder / f"{number}.parquet", row_group_size=250)
        start += rows
    return folder


@pytest.fixture(scope="session")
def expected(exported_text: Path) -> np.ndarray[Any, Any]:
    return runtime.load(exported_text).embed(TEXTS)


@pytest.fixture(scope="session")
def scenarios(
    tmp_path_factory: pytest.TempPathFactory, exported_text: Path, exported: Path, texts: Path, photo_paths: list[Path]
) -> Path:
    """Run ``ray_scenarios`` in a folder and return it."""
    folder = tmp_path_factory.mktemp("ray")
    for source, name in ((exported_text, "toy"), (exported, "tiny"), (texts, "texts")):
        shutil.copytree(source, folder / name)
    for path in photo_paths[:4]:
        (folder / "photos" / "more").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "photos" / ("more" if path == photo_paths[0] else "") / path.name)
    (folder / "photos" / "aa-corrupt.jpg").write_bytes(photo_paths[0].read_bytes()[:500])
    (folder / "photos" / "notes.md").write_text("no image")
    (folder / "poison.txt").write_text("".join(f"{text}\n" for text in [*TEXTS[:100], "poison", *TEXTS[:27]]))
    lines = [json.dumps({"text": text, "other": 1}) for text in TEXTS[:150]]
    lines[70:72] = ["{", json.dumps({"other": 1})]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-m", "tests.runtime.ray_jobs.ray_scenarios", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def result(scenarios: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((scenarios / "results.json").read_text())[name]
    return found


def embeddings(table: pa.Table) -> np.ndarray[Any, Any]:
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)


def assert_each_row_once(output: Path, expected: np.ndarray[Any, Any]) -> None:
    """Check that the output has each row of the input once, in order, with its other columns and its own vector."""
    table = parquet.read_table(output)
    places = zip(table["source_file"].to_pylist(), table["source_row"].to_pylist(), strict=True)
    assert [(Path(file).name, row) for file, row in places] == [
        (f"{number}.parquet", row) for number, rows in enumerate(ROWS_OF_FILES) for row in range(rows)
    ]
    assert table["id"].to_pylist() == list(range(len(TEXTS)))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 24)
    np.testing.assert_allclose(embeddings(table), expected, atol=1e-6)


def test_a_worker_killed_in_the_middle_of_a_shard_loses_and_doubles_nothing(
    scenarios: Path, expected: np.ndarray[Any, Any]
) -> None:
    done = result(scenarios, "killed")
    (kill,) = json.loads((scenarios / "kills.json").read_text())
    assert kill["unwritten"], "the shard was written before its worker was killed"
    assert kill["written"] < done["parts"] / 2, "too little was left to do"
    assert (done["rows"], done["skipped"], done["redone"]) == (len(TEXTS), 0, 1)
    assert_each_row_once(scenarios / "killed", expected)


def test_an_image_that_cannot_be_read_costs_only_itself(scenarios: Path, exported: Path) -> None:
    done = result(scenarios, "images")
    assert (done["rows"], done["skipped"]) == (5, 1)
    assert "aa-corrupt.jpg row 0" in done["first_error"]
    rows = parquet.read_table(scenarios / "images").to_pylist()
    corrupt, *others = rows
    assert corrupt["embedding"] is None
    assert "truncated" in corrupt["error"]
    paths = [row["source_file"] for row in others]
    assert paths == sorted(str(path) for path in (scenarios / "photos").rglob("*.jpg"))[1:]
    assert {(row["error"], row["source_row"]) for row in others} == {(None, 0)}
    wanted = runtime.load(exported).embed(paths)
    np.testing.assert_allclose([row["embedding"] for row in others], wanted, atol=1e-6)


def test_lines_go_to_a_uri_with_a_marker(scenarios: Path, expected: np.ndarray[Any, Any]) -> None:
    done = result(scenarios, "lines")
    assert (done["rows"], done["skipped"], done["parts"]) == (150, 2, 3)
    assert (scenarios / "lines" / "_SUCCESS").exists()
    table = parquet.read_table(scenarios / "lines")
    assert table["source_row"].to_pylist() == list(range(150))
    errors = {row: error for row, error in enumerate(table["error"].to_pylist()) if error}
    assert list(errors) == [70, 71]
    assert "'text'" in errors[71]
    good = table.filter(pa.array([row not in errors for row in range(150)]))
    short = np.delete(expected[:150, :8], [70, 71], axis=0)
    np.testing.assert_allclose(embeddings(good), short / np.linalg.norm(short, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("strict", "ItemError", "item 0 ("),
        ("strict", "ItemError", "aa-corrupt.jpg row 0): "),
        ("artifact", "ArtifactError", "there is no folder /no/such/artifact"),
        ("artifact", "ArtifactError", "(on the worker "),
        ("room", "ClusterError", "3 workers of 1 threads each do not fit: the cluster has room for 2"),
        ("poison", "ClusterError", "poison.txt row 64 to "),
        ("interrupted", "KeyboardInterrupt", ""),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(scenarios: Path, name: str, error: str, message: str) -> None:
    failed = result(scenarios, name)
    assert failed["error"] == error
    assert message in failed["message"]
    assert "\n" not in failed["message"]
    outputs = {"strict", "nowhere", "room", "poisoned", "interrupted"}
    assert not [path for path in scenarios.iterdir() if path.name in outputs or path.suffix == ".partial"]


def test_rows_that_kill_their_worker_are_given_up(scenarios: Path) -> None:
    failed = result(scenarios, "poison")
    assert failed["attempts"] == failed["most"]


def marked_processes(mark: str) -> dict[int, str]:
    """Return the command lines of all processes with ``mark`` in their environment, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Return what ``condition`` finds, or fail with the messages of ``process`` if it ends before."""
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the workers")
def test_the_command_survives_a_killed_worker_and_ends_its_cluster(
    exported_text: Path, texts: Path, tmp_path: Path, expected: np.ndarray[Any, Any]
) -> None:
    output, mark = tmp_path / "vectors", f"{MARK}={uuid.uuid4()}"
    words = f"--engine ray --column text --workers 2 --threads 1 --rows-per-part 20 --provider cpu -o {output}".split()
    command = [sys.executable, "-m", "runtime", "embed", str(exported_text), str(texts), *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= dict([mark.split("=")])
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        partial = wait_for(lambda: next(tmp_path.glob(".vectors.*.partial"), None), process)
        wait_for(lambda: len(list(partial.glob("part-*.parquet"))) >= 10, process)
        workers = [pid for pid, title in marked_processes(mark).items() if "ShardEmbedder" in title]
        os.kill(workers[0], signal.SIGKILL)
        assert len(list(partial.glob("part-*.parquet"))) < 80, "everything was written before the worker was killed"
        printed, errors = process.communicate()
    assert process.returncode == 0
    assert errors.startswith("WARNING: the weights are random")
    assert errors.count("\n") == 1, errors
    assert "2000 rows in 101 parts from 2 workers of 1 threads by cpu" in printed
    assert_each_row_once(output, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]
    assert marked_processes(mark) == {}


@pytest.mark.parametrize(("asked", "given"), [("auto", "fp32"), ("int8", "int8")])
def test_machines_of_different_kinds_run_the_same_graph(tmp_path: Path, asked: str, given: str) -> None:
    job = RayJob(artifact=tmp_path, inputs=["a.txt"], output=str(tmp_path / "out"), variant=asked)
    assert worker_variant(job) == given
