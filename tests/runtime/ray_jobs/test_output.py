from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from runtime.errors import OutputError, UsageError
from runtime.ray_jobs import storage
from runtime.ray_jobs.output import OutputFolder, part_schema, vector_column, write_part

TABLE = pa.table({"a": [1, 2]})
LEFT = "is left of a killed job; remove it, unless another job writes this output now"


def name_of_path(folder: Path) -> str:
    return str(folder / "out.parquet")


def name_of_uri(folder: Path) -> str:
    return f"{folder.as_uri()}/out.parquet"


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out.parquet").iterdir())


def test_an_output_appears_when_all_of_it_is_there(tmp_path: Path) -> None:
    folder = OutputFolder(name_of_path(tmp_path), force=False)
    write_part(folder.place, 1, TABLE)
    write_part(folder.place, 0, TABLE)
    write_part(folder.place, 0, TABLE)
    (Path(folder.place) / "part-000001.parquet.99.partial").touch()
    assert not (tmp_path / "out.parquet").exists()
    folder.publish(2)
    assert written(tmp_path) == ["part-000000.parquet", "part-000001.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_uri_gets_its_parts_in_the_end_and_a_marker(tmp_path: Path) -> None:
    folder = OutputFolder(name_of_uri(tmp_path), force=False)
    write_part(folder.place, 0, TABLE)
    (partial,) = written(tmp_path)
    assert partial.startswith("_partial-")
    folder.publish(1)
    assert written(tmp_path) == ["_SUCCESS", "part-000000.parquet"]


def test_a_store_that_cannot_move_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat:
        def __getattr__(self, name: str) -> Any:
            return getattr(fs.LocalFileSystem(), name)

        def move(self, source: str, target: str) -> None:
            raise pa.ArrowNotImplementedError("no hierarchical namespace")

    folder = OutputFolder(name_of_uri(tmp_path), force=False)
    write_part(folder.place, 0, TABLE)
    monkeypatch.setattr("runtime.ray_jobs.output.open_place", lambda place: (Flat(), storage.open_place(place)[1]))
    folder.publish(1)
    assert written(tmp_path) == ["_SUCCESS", "part-000000.parquet"]


def test_a_store_that_refuses_a_part_is_not_taken_for_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise pa.ArrowException("no credentials")

    monkeypatch.setattr(parquet, "write_table", refuse)
    with pytest.raises(OutputError, match=r"\(no credentials\); check that each machine has the right to write there"):
        write_part("file:///out", 0, TABLE)


@pytest.mark.parametrize("name", [name_of_path, name_of_uri])
def test_an_earlier_output_stays_until_the_new_one_is_complete(tmp_path: Path, name: Callable[[Path], str]) -> None:
    first = OutputFolder(name(tmp_path), force=False)
    write_part(first.place, 0, TABLE)
    first.publish(1)
    before = written(tmp_path)
    failed = OutputFolder(name(tmp_path), force=True)
    write_part(failed.place, 0, pa.table({"b": [1]}))
    failed.discard()
    assert written(tmp_path) == before
    assert parquet.read_table(tmp_path / "out.parquet/part-000000.parquet").equals(TABLE)


def test_what_a_killed_job_left_hinders_no_other_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finished = OutputFolder(name_of_path(tmp_path), force=False)
    killed = OutputFolder(name_of_path(tmp_path), force=False)
    for each in (finished, killed):
        write_part(each.place, 0, TABLE)
    finished.publish(1)
    caplog.clear()
    old = Path(killed.place).with_suffix(".old")
    old.mkdir()
    (old / "part-000000.parquet").touch()
    (tmp_path / ".out.parquet.0123abcd.0123abcd.partial").mkdir()  # of another output
    for _ in range(2):
        folder = OutputFolder(name_of_path(tmp_path), force=True)
        write_part(folder.place, 0, TABLE)
        folder.publish(1)
    assert written(tmp_path) == ["part-000000.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".old", ".partial")) == sorted(
        [".out.parquet.0123abcd.0123abcd.partial", Path(killed.place).name, old.name]
    )
    assert caplog.messages == [f"{old} {LEFT}", f"{killed.place} {LEFT}"] * 2


def test_a_job_leaves_the_parts_of_another_job_with_the_same_uri(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = OutputFolder(name_of_uri(tmp_path), force=False)
    second = OutputFolder(name_of_uri(tmp_path), force=True)
    assert caplog.messages == [f"{first.place} {LEFT}"]
    for each in (first, second):
        write_part(each.place, 0, TABLE)
        each.publish(1)
    assert written(tmp_path) == ["_SUCCESS", "part-000000.parquet"]


@pytest.mark.parametrize("name", [name_of_path, name_of_uri])
@pytest.mark.parametrize(("force", "message"), [(False, "exists; name"), (True, r"holds thesis\.tex, which is")])
def test_what_appears_during_a_job_is_not_replaced(
    force: bool, message: str, name: Callable[[Path], str], tmp_path: Path
) -> None:
    first, late = OutputFolder(name(tmp_path), force=False), OutputFolder(name(tmp_path), force=force)
    write_part(first.place, 0, TABLE)
    first.publish(1)
    if force:
        (tmp_path / "out.parquet" / "thesis.tex").touch()
    write_part(late.place, 0, pa.table({"b": [1]}))
    with pytest.raises(OutputError, match=f"{message}.*; the parts of this job stay in {late.place}"):
        late.publish(1)
    assert columns(tmp_path) == ["a"]
    write_part(late.place, 1, TABLE)  # the folder is still there


def replacement(folder: Path) -> OutputFolder:
    """Return an output that is ready to replace an earlier one."""
    for column in ("a", "b"):
        output = OutputFolder(name_of_path(folder), force=True)
        write_part(output.place, 0, pa.table({column: [1]}))
        if column == "a":
            output.publish(1)
    return output


def columns(folder: Path) -> list[str]:
    names: list[str] = parquet.read_table(folder / "out.parquet/part-000000.parquet").column_names
    return names


def test_a_job_killed_between_the_two_moves_is_finished_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = Path(replacement(tmp_path).place)
    (tmp_path / "out.parquet").rename(partial.with_suffix(".old"))
    with pytest.raises(OutputError, match=r"exists; name another place, or replace it with --force"):
        OutputFolder(name_of_path(tmp_path), force=False)
    assert columns(tmp_path) == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert "is complete: a process was killed while it replaced" in caplog.text


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_earlier_output_returns_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    output, rename = replacement(tmp_path), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError if error is OSError else error, match=f"the parts are in {output.place}"):
        output.publish(1)
    assert columns(tmp_path) == ["a"]
    assert Path(output.place, "part-000000.parquet").exists()


@pytest.mark.parametrize("name", [name_of_path, name_of_uri])
def test_a_missing_part_is_no_output(tmp_path: Path, name: Callable[[Path], str]) -> None:
    folder = OutputFolder(name(tmp_path), force=False)
    write_part(folder.place, 1, TABLE)
    with pytest.raises(OutputError, match=r"part-000000\.parquet is not in .*name an output that all machines"):
        folder.publish(2)
    assert not list(tmp_path.rglob("*.*.partial")) + list(tmp_path.rglob("part-*"))


@pytest.mark.parametrize("name", [name_of_path, name_of_uri])
def test_only_an_earlier_output_is_replaced_and_only_by_force(tmp_path: Path, name: Callable[[Path], str]) -> None:
    for force in (False, True):
        folder = OutputFolder(name(tmp_path), force=force)
        write_part(folder.place, 0, TABLE)
        if not force:
            write_part(folder.place, 1, TABLE)
        folder.publish(1)
        with pytest.raises(OutputError, match=r"exists; name another place, or replace it with --force"):
            OutputFolder(name(tmp_path), force=False)
    assert "part-000001.parquet" not in written(tmp_path)
    (tmp_path / "out.parquet" / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"holds thesis\.tex, which is not from a job"):
        OutputFolder(name(tmp_path), force=True)
    with pytest.raises(OutputError, match="is a file; name a folder"):
        OutputFolder(str(tmp_path / "out.parquet" / "thesis.tex"), force=True)


def test_a_part_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name a folder that all machines share"):
        write_part(str(tmp_path / "of-another-machine"), 0, TABLE)


def test_a_worker_that_still_writes_leaves_nothing_of_a_discarded_output(tmp_path: Path) -> None:
    folder = OutputFolder(name_of_path(tmp_path), force=False)
    writing = threading.Event()

    def write() -> None:
        with suppress(OSError):
            for number in itertools.count():
                Path(folder.place, str(number)).touch()
                writing.set()

    worker = threading.Thread(target=write)
    worker.start()
    writing.wait(20)
    folder.discard()
    worker.join(20)
    assert not worker.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_columns_of_the_input_are_not_overwritten() -> None:
    with pytest.raises(UsageError, match="column embedding is also a column that the output adds"):
        part_schema(pa.schema([("id", pa.int64()), ("embedding", pa.string())]), 3, errors=False)


def test_vectors_stay_with_their_rows() -> None:
    column = vector_column(np.array([[1, 2], [3, 4]], dtype=np.float32), np.array([0, 2]), 4)
    assert column.type == pa.list_(pa.float32(), 2)
    assert column.to_pylist() == [[1, 2], None, [3, 4], None]
