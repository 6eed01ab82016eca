from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.errors import MissingDependencyError, UsageError
from runtime.jobs.inputs import open_inputs
from runtime.jobs.items import SourceItem, Unreadable

TEXT, IMAGE, BOTH = ("text",), ("image",), ("text", "image")


def read(words: Sequence[object], towers: Sequence[str] = TEXT, column: str | None = None) -> list[SourceItem]:
    return list(open_inputs([str(word) for word in words], towers=towers, column=column))


def items(words: Sequence[object], towers: Sequence[str] = TEXT, column: str | None = None) -> list[Any]:
    """Return the items: a path as a string, and an unreadable item as a tuple of its reason."""
    found = [source.item for source in read(words, towers, column)]
    return [
        str(item) if isinstance(item, Path) else (item.reason,) if isinstance(item, Unreadable) else item
        for item in found
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\n\r\n b \r\n", ["a", "", " b "]),
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        ("a\u2028b\x0bc\rd\n".encode(), ["a\u2028b\x0bc\rd"]),
        (b"a\na\n", ["a", "a"]),
    ],
)
def test_a_line_of_a_text_file_is_an_item(folder: Path, content: bytes, expected: list[str]) -> None:
    (folder / "t.txt").write_bytes(content)
    assert items(["t.txt"]) == expected
    assert open_inputs(["t.txt"], towers=TEXT).total == len(expected)


def test_a_line_that_is_not_utf8_costs_itself_alone(folder: Path) -> None:
    (folder / "t.txt").write_bytes(b"a\n\xff\xffb\nc\n")
    assert items(["t.txt"]) == ["a", ("the line is not UTF-8 (invalid start byte at byte 1); convert the file",), "c"]
    assert [source.describe() for source in read(["t.txt"])] == ["a (t.txt:1)", "t.txt:2", "c (t.txt:3)"]


def test_utf16_is_called_by_its_name(folder: Path) -> None:
    (folder / "t.txt").write_text("a\nb", "utf-16")
    with pytest.raises(UsageError, match=r"t.txt is UTF-16.*iconv"):
        items(["t.txt"])


def test_lines_are_paths_to_an_image_tower_and_blank_ones_are_none(folder: Path) -> None:
    (folder / "t.txt").write_text("a.jpg\n\n  \nfolder/b.png\n")
    assert read(["t.txt"], IMAGE) == [
        SourceItem("a.jpg", Path("a.jpg"), "t.txt:1"),
        SourceItem("folder/b.png", Path("folder/b.png"), "t.txt:4"),
    ]


def test_standard_input_is_read_by_lines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\n\nb")))
    inputs = open_inputs(["first", "-"], towers=TEXT)
    assert inputs.total is None
    assert [source.item for source in inputs] == ["first", "a", "", "b"]
    with pytest.raises(UsageError, match="named 2 times"):
        open_inputs(["-", "-"], towers=TEXT)


def test_json_lines_fail_one_by_one(folder: Path) -> None:
    lines = [
        '{"text": "a"}',
        "{",
        '{"id": 1, "n": 2}',
        '{"text": null}',
        "",
        "[1]",
        '{"text": "\\ud800"}',
        "[" * 99_999,
    ]
    (folder / "t.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"text": "\xff"}\n{"text": "b"}')
    first, bad_json, missing, null, listed, surrogate, deep, undecodable, last = items(["t.jsonl"])
    assert (first, surrogate, last) == ("a", "\ud800", "b")
    assert bad_json[0].startswith("the line is not JSON (Expecting property name")
    assert missing == ("there is no 'text' among 'id', 'n'; see --column",)
    assert null == ("'text' is of type NoneType, not a string",)
    assert "is of type list, but an object is expected" in listed[0]
    assert "recursion" in deep[0]
    assert "not UTF-8" in undecodable[0]
    assert [source.place for source in read(["t.jsonl"])][4] == "t.jsonl:6", "blank lines count as lines"


def test_the_column_is_named_as_the_tower_unless_said(folder: Path) -> None:
    (folder / "t.jsonl").write_text(json.dumps({"text": "a", "image": "a.jpg", "other": "b"}))
    assert items(["t.jsonl"]) == ["a"]
    assert items(["t.jsonl"], IMAGE) == ["a.jpg"]
    assert items(["t.jsonl"], column="other") == ["b"]


def write_parquet(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=2)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_column_of_strings_is_read_and_its_nulls_fail(folder: Path, kind: pa.DataType) -> None:
    write_parquet(folder / "t.parquet", text=pa.array(["a", None, "", "a"], kind), other=[1, 2, 3, 4])
    assert items(["t.parquet"]) == ["a", ("'text' is null",), "", "a"]
    assert [source.place for source in read(["t.parquet"])][1] == "t.parquet:2"
    assert open_inputs(["t.parquet"], towers=TEXT).total == 4


def test_a_string_that_is_not_utf8_costs_itself_alone(folder: Path) -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    write_parquet(folder / "t.parquet", text=pa.StringArray.from_buffers(2, offsets, data))
    assert items(["t.parquet"]) == ["a", ("the string is not UTF-8 (invalid start byte)",)]


def test_images_of_a_table_are_bytes_or_paths(folder: Path) -> None:
    rows = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, {"bytes": b"2", "path": None}, None]
    write_parquet(folder / "hf.parquet", image=rows)
    assert items(["hf.parquet"], IMAGE) == [b"1", "b.jpg", b"2", ("'image' is null",)]
    assert [source.name for source in read(["hf.parquet"], IMAGE)][:3] == ["a.jpg", "b.jpg", "hf.parquet:3"]
    write_parquet(folder / "raw.parquet", image=[b"1", None])
    assert items(["raw.parquet"], IMAGE) == [b"1", ("'image' is null",)]


@pytest.mark.parametrize(
    ("columns", "towers", "message"),
    [
        ({"a": ["x"], "b": [1]}, TEXT, r"has no column 'text', only a, b; choose one of these with --column"),
        ({"text": [1]}, TEXT, r"has int64 in column 'text', but strings are expected"),
        ({"text": [b"x"]}, TEXT, r"has binary in column 'text'"),
        ({"image": [["x"]]}, IMAGE, r"has list.* in column 'image', but strings, image bytes or"),
        ({"image": [{"data": b"x"}]}, IMAGE, r"has struct<data: binary> in column 'image'"),
    ],
)
def test_a_table_without_the_column_is_refused(
    folder: Path, columns: dict[str, Any], towers: Sequence[str], message: str
) -> None:
    write_parquet(folder / "t.parquet", **columns)
    with pytest.raises(UsageError, match=message):
        items(["t.parquet"], towers)


def test_a_damaged_table_is_refused(folder: Path) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(UsageError, match="cannot be read as parquet"):
        items(["t.parquet"])
    write_parquet(folder / "u.parquet", text=[f"text {index}" * 99 for index in range(99)])
    data = bytearray((folder / "u.parquet").read_bytes())
    data[4:400] = b"\xff" * 396
    (folder / "u.parquet").write_bytes(data)
    with pytest.raises(UsageError, match="is damaged"):
        items(["u.parquet"])


def test_without_pyarrow_its_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(folder / "t.parquet", text=["a"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"embedding-backbones\[parquet\]"):
        items(["t.parquet"])


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_is_its_files_in_order(folder: Path) -> None:
    make_files(folder, "p/b.jpg", "p/a/z.PNG", "p/c.jpg", "p/notes.txt", "p/.hidden.jpg", "p/.git/x.jpg", "p/B.jpg")
    (folder / "p/broken.jpg").symlink_to("gone.jpg")
    (folder / "p/loop").symlink_to(folder / "p")
    expected = ["p/B.jpg", "p/a/z.PNG", "p/b.jpg", "p/broken.jpg", "p/c.jpg"]
    assert items(["p"], IMAGE) == expected
    assert items(["p"], BOTH) == expected
    assert items(["p/", "p/b.jpg"], IMAGE) == [*expected, "p/b.jpg"]
    assert open_inputs(["p", "p"], towers=IMAGE).total == 10


def test_names_that_are_no_text_are_kept(folder: Path) -> None:
    make_files(folder, "p/a.jpg")
    Path(os.fsdecode(b"p/\xff.jpg")).touch()
    assert [os.fsencode(item) for item in items(["p"], IMAGE)] == [b"p/a.jpg", b"p/\xff.jpg"]


def test_a_folder_of_texts_is_the_lines_of_its_files(folder: Path) -> None:
    make_files(folder, "c/a.txt", "c/b.jsonl", "c/readme.md")
    (folder / "c/a.txt").write_text("1\n2\n")
    (folder / "c/b.jsonl").write_text('{"text": "3"}')
    inputs = open_inputs(["c"], towers=TEXT)
    assert ([source.item for source in inputs], inputs.total) == (["1", "2", "3"], 3)
    assert inputs.lists == ("c/a.txt", "c/b.jsonl")


def test_meshes_have_suffixes_of_their_own(folder: Path) -> None:
    make_files(folder, "m/a.obj", "m/b.STL", "m/c.jpg")
    assert items(["m"], ("mesh",)) == ["m/a.obj", "m/b.STL"]


@pytest.mark.parametrize("towers", [TEXT, IMAGE])
def test_a_folder_without_any_is_refused(folder: Path, towers: Sequence[str]) -> None:
    make_files(folder, "p/readme.md")
    with pytest.raises(UsageError, match=r"the folder p holds no file that ends in \."):
        items(["p"], towers)


def test_files_that_a_folder_leaves_out_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_files(folder, "p/a.jpg", "p/b.avif", "p/c.JFIF", "p/note.md", "p/q/film.mp4", "p/q/d.md", "p/noname", "p/.x")
    assert items(["p"], IMAGE) == ["p/a.jpg", "p/b.avif", "p/c.JFIF"]
    found = "left out 4 files of another kind by their suffixes: no suffix (1), .md (2), .mp4 (1)"
    assert caplog.messages == [f"the folder p: {found}"]
    caplog.clear()
    assert items(["p/*"], IMAGE) == ["p/a.jpg", "p/b.avif", "p/c.JFIF"]
    found = "left out 2 files of another kind by their suffixes: no suffix (1), .md (1)"
    assert caplog.messages == [f"the pattern p/*: {found}"]
    caplog.clear()
    items(["p/*.jpg"], IMAGE)
    assert caplog.messages == []


def test_a_folder_that_cannot_be_read_is_no_empty_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(folder, "p/a.jpg", "p/q/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("q"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for word in ("p", "p/**", "p/**/*.jpg", "p/*/*.jpg"):
        with pytest.raises(UsageError, match=r"the folder p/q cannot be read \(Permission denied\)"):
            items([word], IMAGE)


def test_a_pattern_follows_a_link_to_a_folder_only_where_it_names_one(folder: Path) -> None:
    make_files(folder, "p/a.jpg", "p/2024/b.jpg", "p/.git/x.jpg", "p/.hidden.jpg")
    (folder / "p/loop").symlink_to(folder / "p")
    (folder / "p/best").symlink_to(folder / "p/2024")
    (folder / "p/broken.jpg").symlink_to("gone.jpg")
    assert items(["p/**/*.jpg"], IMAGE) == ["p/2024/b.jpg", "p/a.jpg", "p/broken.jpg"]
    assert items(["**/2024/*.jpg"], IMAGE) == ["p/2024/b.jpg"]
    assert items(["p/best/*.jpg"], IMAGE) == ["p/best/b.jpg"]
    assert items(["p/.*.jpg"], IMAGE) == ["p/.hidden.jpg"]
    assert items([f"{folder}/p/[ab].jpg"], IMAGE) == [f"{folder}/p/a.jpg"]
    assert items(["p/**/**/a.jpg"], IMAGE) == ["p/a.jpg"]


def test_patterns_are_expanded(folder: Path) -> None:
    make_files(folder, "p/b.jpg", "p/a.jpg", "p/q/c.jpg", "p/note.md", "p/folder.jpg/d.jpg", "c/a.txt")
    assert items(["p/*.jpg"], IMAGE) == ["p/a.jpg", "p/b.jpg"]
    assert items(["p/**"], IMAGE) == ["p/a.jpg", "p/b.jpg", "p/folder.jpg/d.jpg", "p/q/c.jpg"]
    assert items(["p/?.jpg"], BOTH) == ["p/a.jpg", "p/b.jpg"]
    (folder / "c/a.txt").write_text("p/a.jpg\n")
    assert items(["c/*.txt"], IMAGE) == ["p/a.jpg"]
    assert items(["c/*"], TEXT) == ["p/a.jpg"]


def test_a_file_whose_name_is_a_pattern_is_that_file(folder: Path) -> None:
    make_files(folder, "a[1].jpg", "a1.jpg")
    assert items(["a[1].jpg"], IMAGE) == ["a[1].jpg"]


@pytest.mark.parametrize(("word", "towers"), [("no/*.jpg", IMAGE), ("*.txt", TEXT), ("no/*", TEXT), ("?.jpg", BOTH)])
def test_a_pattern_without_a_match_is_refused(folder: Path, word: str, towers: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="holds no file that ends in"):
        items([word], towers)


@pytest.mark.parametrize(
    "word", ["How are you?", "a*b", "[CLS]", "and/or?", "either* / or", "", "b/c.jpg", "x" * 9999, "at s3://b"]
)
def test_a_word_that_is_no_file_is_a_text(folder: Path, word: str) -> None:
    assert items([word]) == [word]


@pytest.mark.parametrize(
    "uri", ["s3://bucket/folder", "s3://key:secret@bucket/my folder", "file:///a", "gs://b/*.txt", "http://[CLS] a"]
)
@pytest.mark.parametrize("towers", [TEXT, IMAGE, BOTH])
def test_a_uri_is_no_text(folder: Path, uri: str, towers: Sequence[str]) -> None:
    with pytest.raises(
        UsageError, match=r"is a URI, and a local job takes paths .* add --engine ray for s3://"
    ) as caught:
        items([uri], towers)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("word", ["no.txt", "no.jsonl", "my data.PARQUET"])
@pytest.mark.parametrize("towers", [TEXT, IMAGE, BOTH])
def test_a_missing_list_is_no_text(folder: Path, word: str, towers: Sequence[str]) -> None:
    with pytest.raises(UsageError, match=rf"there is no file or folder {word}.*`-`"):
        items([word], towers)


def test_a_file_that_holds_no_texts_is_refused(folder: Path) -> None:
    make_files(folder, "a.md")
    os.mkfifo("pipe")
    with pytest.raises(UsageError, match=r"a.md is a file, but a text is expected; .*\.txt"):
        items(["a.md"])
    with pytest.raises(UsageError, match="pipe is no regular file; pipe it in"):
        items(["pipe"])


def test_with_two_towers_files_are_images_and_lists_need_a_word_more(folder: Path) -> None:
    make_files(folder, "a.jpg", "a", "l.txt")
    assert read(["a.jpg", "a", "a cat"], BOTH) == [
        SourceItem("a.jpg", Path("a.jpg")),
        SourceItem("a", Path("a")),
        SourceItem("a cat", "a cat"),
    ]
    with pytest.raises(UsageError, match="if it is a text, add --tower text"):
        items(["b.jpg"], BOTH)
    with pytest.raises(UsageError, match="if it is a text, add --tower text"):
        items(["./b.jpg"], BOTH)
    for missing in ("photos/", "~/photos", "./photos", "../photos", "/no/photos"):
        with pytest.raises(UsageError, match=f"there is no file or folder {missing}; to embed the words themselves"):
            items([missing], BOTH)
    for text in ("/imagine a cat", "see https://example.com/docs/"):
        assert read([text], BOTH) == [SourceItem(text, text)]
    for word in ("l.txt", "-"):
        with pytest.raises(UsageError, match="choose with --tower"):
            items([word], BOTH)


def test_a_missing_image_fails_as_an_item(folder: Path) -> None:
    assert read(["no.jpg", ""], IMAGE) == [
        SourceItem("no.jpg", Path("no.jpg")),
        SourceItem("", Unreadable("the path is empty")),
    ]


def test_a_long_text_is_named_by_its_beginning(folder: Path) -> None:
    (source,) = read(["one\n two " + "x" * 999])
    assert source.name == "one two " + "x" * 72
