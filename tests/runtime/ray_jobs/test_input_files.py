from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from runtime.artifact.manifest import TowerName
from runtime.errors import ClusterError, UsageError
from runtime.jobs.inputs import open_inputs
from runtime.jobs.items import Unreadable
from runtime.preprocess.mesh.triangles import load_corners
from runtime.ray_jobs import input_files, shards, storage
from runtime.ray_jobs.input_files import InputFile, InputFiles, InputFormat, find_inputs
from runtime.ray_jobs.shards import cut, read_shard
from runtime.ray_jobs.storage import join, open_place
from runtime.uris import public_name

COUNTS = (70, 1, 0, 200, 129)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the same texts three times: as parquet of small row groups, as lines, and as JSON lines."""
    for number, count in enumerate(COUNTS):
        texts = [f"{number} é {row}" for row in range(count)]
        columns = {"text": pa.array(texts, pa.string()), "id": pa.array(range(count), pa.int32())}
        parquet.write_table(pa.table(columns), tmp_path / f"{number}.parquet", row_group_size=30)
        (tmp_path / f"{number}.txt").write_bytes("\r\n".join(texts).encode())
        (tmp_path / f"{number}.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    (tmp_path / "_metadata.parquet").write_text("of no concern")
    return tmp_path


@pytest.mark.parametrize("suffix", ["parquet", "txt", "jsonl"])
@pytest.mark.parametrize("size", [1, 7, 64, 100, 1000])
def test_shards_hold_every_row_once_and_in_order(folder: Path, suffix: str, size: int) -> None:
    files = sorted(str(path) for path in folder.glob(f"[0-9].{suffix}"))
    places = [str(folder)] if suffix == "parquet" else files
    inputs = find_inputs(places, None if suffix == "txt" else "text", "text")
    assert inputs.rows == sum(COUNTS)
    shards = cut(inputs, size)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert max(shard.rows for shard in shards) <= (size if suffix == "parquet" else -(-size // 64) * 64)
    read = [read_shard(shard, inputs.format) for shard in shards]
    wanted = [(number, row) for number, count in enumerate(COUNTS) for row in range(count)]
    assert [item for rows in read for item in rows.items] == [f"{number} é {row}" for number, row in wanted]
    found = [place for rows in read for place in zip(rows.files, rows.numbers, strict=True)]
    assert found == [(files[number], row) for number, row in wanted]
    assert [shard.first for shard in shards] == [sum(p.rows for p in shards[:i]) for i in range(len(shards))]
    assert shards[-1].locate(shards[-1].rows - 1) == f"{files[-1]} row 128"
    if suffix == "parquet":
        assert pa.concat_tables([rows.carried for rows in read])["id"].to_pylist() == [row for _, row in wanted]


def test_shards_of_a_large_row_group_hold_their_own_rows(tmp_path: Path) -> None:
    texts = [str(row) for row in range(5000)]
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    inputs = find_inputs([str(tmp_path)], "text", "text")
    assert [item for shard in cut(inputs, 1500) for item in read_shard(shard, inputs.format).items] == texts


def test_a_row_without_an_item_is_a_fault_of_its_own(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["a", None, "c"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n[1]\n\n{"text": "c"}\n')
    (tmp_path / "a.txt").write_bytes(b"a\n\xff\nc\n")
    for suffix in ("parquet", "jsonl", "txt"):
        inputs = find_inputs([str(tmp_path / f"a.{suffix}")], None, "text")
        rows = read_shard(cut(inputs, 10)[0], inputs.format)
        assert (rows.items, list(rows.faults)) == (["a", None, "c"], [1])


@pytest.mark.parametrize(
    ("name", "tower"),
    [("a.txt", "text"), ("a.txt", "image"), ("a.jsonl", "text"), ("a.parquet", "text"), ("a.parquet", "image")],
)
def test_lists_hold_the_same_items_as_on_one_machine(tmp_path: Path, name: str, tower: TowerName) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone.jpg\n\n \t\r\n\xff\n" + b"two\n" * 70 + b"three")
    lines = [*['{"text": "é"}', "", "[1]", "{", '{"text": 1}'] * 40, '{"other": 2}']
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\r\n".join(lines))
    images = [{"bytes": b"\x89PNG", "path": "a.png"}, {"bytes": None, "path": "b.png"}, {"bytes": None, "path": None}]
    parquet.write_table(pa.table({"image": images, "text": ["a", None, ""]}), tmp_path / "a.parquet")
    path = str(tmp_path / name)
    alone = [source.item for source in open_inputs([path], towers=[tower])]
    inputs = find_inputs([path], None, tower)
    read = [read_shard(shard, inputs.format) for shard in cut(inputs, 64)]
    assert len(alone) == inputs.rows
    assert [item for rows in read for item in rows.items] == [
        None if isinstance(item, Unreadable) else item for item in alone
    ]
    assert [reason for rows in read for reason in rows.faults.values()] == [
        item.reason for item in alone if isinstance(item, Unreadable)
    ]


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_pattern_of_lists_stands_for_the_lists(tmp_path: Path, tower: TowerName) -> None:
    (tmp_path / "a.txt").write_text("one.jpg\ntwo.jpg")
    (tmp_path / "b.jpg").touch()
    pattern = str(tmp_path / "*.txt")
    inputs = find_inputs([pattern], None, tower)
    (shard,) = cut(inputs, 10)
    assert read_shard(shard, inputs.format).items == [item.item for item in open_inputs([pattern], towers=[tower])]
    assert shard.rows == 2
    with pytest.raises(UsageError, match=r"holds no file that ends in \.jsonl;"):
        find_inputs([str(tmp_path / "*.jsonl")], None, tower)


def test_a_folder_of_texts_is_read_in_the_order_of_one_machine(tmp_path: Path) -> None:
    for name in ("a.txt", "a/x.txt", "a-b.txt", "_b.txt", "b/.c.txt", "b/_d/e.TXT", "b/f #%20?.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name} one\n{name} two")
    alone = [source.item for source in open_inputs([str(tmp_path)], towers=["text"])]
    assert len(alone) == 12
    for place in (str(tmp_path), tmp_path.as_uri()):
        inputs = find_inputs([place], None, "text")
        shards = [read_shard(shard, inputs.format) for shard in cut(inputs, 64)]
        assert [item for rows in shards for item in rows.items] == alone
        assert {Path(name).name for rows in shards for name in rows.files} == {
            "_b.txt",
            "a-b.txt",
            "a.txt",
            "x.txt",
            "e.TXT",
            "f #%20?.txt",
        }


@pytest.mark.parametrize("suffix", ["txt", "parquet"])
@pytest.mark.parametrize("texts", [["a"], ["another", "text", "and more"]])
def test_a_file_that_changes_during_the_job_is_noticed(tmp_path: Path, suffix: str, texts: list[str]) -> None:
    def write(texts: list[str]) -> None:
        (tmp_path / "a.txt").write_text("\n".join(texts))
        parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")

    write(["a", "b"])
    inputs = find_inputs([str(tmp_path / f"a.{suffix}")], None, "text")
    (shard,) = cut(inputs, 10)
    write(texts)
    with pytest.raises(UsageError, match=rf"a\.{suffix} has changed since the job began"):
        read_shard(shard, inputs.format)
    (tmp_path / f"a.{suffix}").write_bytes((tmp_path / f"a.{suffix}").read_bytes()[:-1])  # a part of a new one
    with pytest.raises(UsageError, match=rf"a\.{suffix} has changed since the job began"):
        read_shard(shard, inputs.format)


@pytest.mark.parametrize("columns", [["text", "j"], ["taxt", "k"]])
def test_columns_that_change_during_the_job_are_noticed(tmp_path: Path, columns: list[str]) -> None:
    for name in ("a", "b"):
        parquet.write_table(pa.table({"text": ["x"], "k": ["y"]}), tmp_path / f"{name}.parquet")
    inputs = find_inputs([str(tmp_path)], "text", "text")
    (shard,) = cut(inputs, 10)
    parquet.write_table(pa.table(dict(zip(columns, (["x"], ["y"]), strict=True))), tmp_path / "b.parquet")
    assert (tmp_path / "b.parquet").stat().st_size == (tmp_path / "a.parquet").stat().st_size
    with pytest.raises(UsageError, match=r"b\.parquet has changed since the job began"):
        read_shard(shard, inputs.format)


@pytest.mark.parametrize("name", ["a.txt", "a.parquet", "a.jpg"])
def test_a_store_that_refuses_a_file_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(path: str) -> None:
        raise pa.ArrowException("no credentials")

    info = SimpleNamespace(type=fs.FileType.File)
    store = SimpleNamespace(get_file_info=lambda path: info, open_input_file=refuse)
    for module in (storage, input_files, shards):
        monkeypatch.setattr(module, "open_place", lambda place: (store, place))
    tower: TowerName = "image" if name == "a.jpg" else "text"
    if tower == "image":
        inputs = find_inputs([f"s3://bucket/{name}"], None, tower)
        assert read_shard(cut(inputs, 1)[0], inputs.format).faults == {0: "it cannot be read (no credentials)"}
        return
    message = rf"cannot read s3://bucket/{name} \(no credentials\); check .* that each machine has the right to read it"
    with pytest.raises(UsageError, match=message):
        find_inputs([f"s3://bucket/{name}"], None, tower)
    file = InputFile(name=name, place=f"s3://bucket/{name}")
    form = InputFormat(name="parquet" if name == "a.parquet" else "txt", column="text", tower=tower)
    (shard,) = cut(InputFiles(format=form, files=[file], carried=pa.schema([])), 1)
    with pytest.raises(ClusterError, match=message):
        read_shard(shard, form)


def test_a_folder_gives_the_files_that_the_tower_embeds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.PNG", "a/c.jpg", "d.obj", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = find_inputs([str(tmp_path)], None, "image").files
    assert [source.name for source in images] == [str(tmp_path / "a/c.jpg"), str(tmp_path / "b.PNG")]
    assert caplog.messages == [
        f"the folder {tmp_path}: left out 2 files of another kind by their suffixes: .obj (1), .txt (1)"
    ]
    assert [Path(source.name).name for source in find_inputs([tmp_path.as_uri()], None, "mesh").files] == ["d.obj"]
    assert [Path(source.name).name for source in find_inputs([str(tmp_path)], None, "text").files] == ["notes.txt"]
    pattern = find_inputs([str(tmp_path / "**")], None, "image").files
    assert [source.name for source in pattern] == [source.name for source in images]
    (tmp_path / "d.obj").unlink()
    for place in (tmp_path, tmp_path / "*"):
        with pytest.raises(UsageError, match=r"holds no file that ends in \.parquet, \.obj"):
            find_inputs([str(place)], None, "mesh")


@pytest.mark.parametrize(
    ("places", "column", "message"),
    [
        (["0.parquet"], "body", r"0\.parquet has no column 'body', only text, id"),
        (["0.parquet"], "id", "has int32 in column 'id', but strings are expected"),
        (["0.parquet", "other.parquet"], "text", r"other\.parquet has other columns than"),
        (["0.parquet", "0.txt"], "text", "of several formats, parquet, txt"),
        (
            ["0.txt"],
            "text",
            "--column text names a column of .jsonl, .parquet, .csv, .tsv files, but no input is such a file",
        ),
        (["0.txt", "0.txt"], None, "is given twice"),
        (["no.txt"], None, "there is no file or folder"),
        (["_metadata.parquet"], "text", "cannot be read as parquet"),
    ],
)
def test_inputs_that_cannot_be_right(folder: Path, places: list[str], column: str | None, message: str) -> None:
    parquet.write_table(pa.table({"text": ["a"], "size": [1]}), folder / "other.parquet")
    with pytest.raises(UsageError, match=message):
        find_inputs([str(folder / place) for place in places], column, "text")


def test_a_uri_is_shown_without_its_secrets() -> None:
    assert join("s3://key:secret@bucket/in/?region=eu", "a.txt") == "s3://key:secret@bucket/in/a.txt?region=eu"
    assert public_name("s3://key:secret@bucket/in/a.txt?region=eu") == "s3://bucket/in/a.txt"
    for secret in ("a/b", "12/b", "/b", "a#b", "a?b"):
        assert public_name(f"s3://key:{secret}@bucket/in/a.txt") == "s3://..."
    for uri in (
        "none://key:secret@bucket/in",
        "s3://key:sec/ret@bucket/in",
        "s3://key:secret@bucket/i n",
        "s3://key:secret@bucket/run#2",
    ):
        with pytest.raises(UsageError, match="cannot be opened") as caught:
            open_place(uri)
        assert "ret@" not in str(caught.value)


def test_a_name_that_is_not_utf8_ends_no_job_of_images(tmp_path: Path) -> None:
    (tmp_path / "\udcff.jpg").touch()
    for place in (tmp_path, tmp_path / "*"):
        (file,) = find_inputs([str(place)], None, "image").files
        assert file.name == f"{tmp_path}/\\udcff.jpg"
    (tmp_path / "\udcff.txt").touch()
    with pytest.raises(UsageError, match=r"udcff\.txt cannot be opened \(its name is not UTF-8\); rename it"):
        find_inputs([str(tmp_path / "\udcff.txt")], None, "text")


@pytest.mark.parametrize("name", ["texts.txt.gz", "notes.md", "texts"])
def test_a_file_that_holds_no_texts_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for place in (str(tmp_path / name), (tmp_path / name).as_uri()):
        with pytest.raises(UsageError, match=f"{name} is a file, but a text is expected; give texts as one of .txt"):
            find_inputs([place], None, "text")


def test_meshes_behind_a_uri_are_those_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.OBJ").write_text("v 0 0 0\nv 1 0 0\nv 0 2 0\nf 1 2 3\n")
    (tmp_path / "b.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 3 0\n3 0 1 2\n")
    (tmp_path / "c.ply").write_text("damaged")
    inputs = find_inputs([tmp_path.as_uri()], None, "mesh")
    rows = read_shard(cut(inputs, 10)[0], inputs.format)
    for name, mesh in zip(("a.OBJ", "b.off"), rows.items, strict=False):
        np.testing.assert_array_equal(load_corners(mesh), load_corners(tmp_path / name))
    assert rows.items[2] is None
    assert list(rows.faults) == [2]


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_first_line_of_a_byte_order_mark_alone_is_a_blank_one(tmp_path: Path, name: str, kind: TowerName) -> None:
    lines = [f'{{"{kind}": "{row}"}}' if name == "a.jsonl" else f"{row}" for row in range(130)]
    (tmp_path / name).write_text("\n".join(["\ufeff", *lines]))
    alone = [source.item for source in open_inputs([str(tmp_path / name)], towers=[kind])]
    inputs = find_inputs([str(tmp_path / name)], None, kind)
    read = [read_shard(shard, inputs.format) for shard in cut(inputs, 64)]
    assert inputs.rows == len(alone)
    assert [item for rows in read for item in rows.items] == alone


def test_lines_are_read_in_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []

    class Recorded(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            requests.append(len(buffer))
            return super().readinto(buffer)

    files = SimpleNamespace(open_input_file=lambda path: Recorded(path))
    monkeypatch.setattr(storage, "open_place", lambda place: (files, place))
    texts = [f"{row:999}" for row in range(1000)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    inputs = find_inputs([str(tmp_path / "a.txt")], None, "text")
    assert len(requests) <= 3
    (first, last) = cut(inputs, 960)
    assert [item for shard in (first, last) for item in read_shard(shard, inputs.format).items] == texts
    assert len(requests) <= 9
    assert min(requests) >= 1 << 20


def test_files_behind_a_uri_are_read_at_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{row}.jpg" for row in range(8)]
    for name in names:
        (tmp_path / name).touch()
    inputs = find_inputs([tmp_path.as_uri()], None, "image")
    four = threading.Barrier(4)  # opens no file before four are asked for

    def open_input_file(path: str) -> io.BytesIO:
        four.wait(timeout=20)
        return io.BytesIO(path.encode())

    files = SimpleNamespace(open_input_file=open_input_file)
    monkeypatch.setattr(shards, "open_place", lambda place: (files, Path(place).name))
    read = read_shard(cut(inputs, 10)[0], inputs.format)
    assert (read.items, read.faults) == ([name.encode() for name in names], {})


def test_uris_of_one_bucket_share_a_file_system() -> None:
    (one, path), (same, other) = (open_place(f"s3://key:a@bucket/in/{name}?region=eu") for name in ("a%20b", "c"))
    assert one is same
    assert (path, other) == ("bucket/in/a b", "bucket/in/c")
    for place in ("s3://key:b@bucket/in/c?region=eu", "s3://key:a@bucket/in/c?region=us"):
        assert open_place(place)[0] is not one


def test_rows_before_a_shard_are_not_kept_in_memory(tmp_path: Path) -> None:
    rows, width = 8192, 1024
    columns = {"text": ["a"] * rows, "body": [f"{row:{width}}" for row in range(rows)]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    inputs = find_inputs([str(tmp_path / "a.parquet")], None, "text")
    last = cut(inputs, 64)[-1]
    before = pa.total_allocated_bytes()
    read = read_shard(last, inputs.format)
    assert read.carried["body"][-1].as_py() == f"{rows - 1:{width}}"
    assert pa.total_allocated_bytes() - before < rows * width // 2
