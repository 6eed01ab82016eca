from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UsageError
from runtime.jobs.inputs import open_inputs
from runtime.jobs.items import Unreadable
from runtime.ray_jobs.input_files import _format


def items(path: Path, column: str | None = None, tower: str = "text") -> list[Any]:
    inputs = open_inputs([str(path)], towers=(tower,), column=column)
    found = list(inputs)
    assert inputs.total == len(found)
    return [(item.item.reason,) if isinstance(item.item, Unreadable) else item.item for item in found]


@pytest.mark.parametrize(("name", "comma"), [("t.csv", ","), ("T.TSV", "\t")])
def test_a_column_is_read(tmp_path: Path, name: str, comma: str) -> None:
    path = tmp_path / name
    path.write_bytes('\ufeffid,text\r\n1,"a\nb, ""c"""\r\n\r\n2,\r\n3,d'.replace(",", comma).encode())
    assert items(path) == [f'a\nb{comma} "c"', "", "d"]
    assert items(path, "id") == ["1", "2", "3"]
    assert [source.place for source in open_inputs([str(path)], towers=("text",))] == [f"{path}:{n}" for n in (3, 5, 6)]


def test_a_row_that_is_short_or_not_utf8_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"id,text\n1\n2,\xff\n3,c\n")
    short, undecodable, last = items(tmp_path / "t.csv")
    assert short == ("the row has 1 fields, and 'text' is field 2",)
    assert undecodable == ("the field is not UTF-8; convert the file",)
    assert last == "c"


@pytest.mark.parametrize("row", [b"1,Hello, world", b'1, "Hello, world"', b"row name,1,a", b"1,a,"])
def test_a_row_with_more_fields_than_the_header_is_not_read_by_guess(tmp_path: Path, row: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(b"id,text\n" + row + b"\n2,b\n")
    long, last = items(tmp_path / "t.csv")
    assert long[0].startswith("the row has 3 fields, and the header has 2; put quotes around a field")
    assert last == "b"


def test_a_long_text_is_one_field(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\n" + "a" * 200_000)
    assert items(tmp_path / "t.csv") == ["a" * 200_000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column 'text' in its first row, only nothing"),
        (b"a,b\n1,2\n", "has no column 'text' in its first row, only a, b; choose one of these with --column"),
        (b"text,text\n1,2\n", "has 2 columns 'text'"),
        (b'text\n"a\nb\n', "is damaged at line 3"),
        ("text\na".encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_without_the_column_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        items(tmp_path / "t.csv")


def test_a_list_of_images_has_paths(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image\na.jpg\n")
    assert items(tmp_path / "t.csv", tower="image") == [Path("a.jpg")]


@pytest.mark.parametrize("name", ["missing.csv", "missing.TSV", "folder/missing.json", "missing.pdf"])
@pytest.mark.parametrize("towers", [("text",), ("text", "image")])
def test_a_file_that_is_not_there_is_no_text(name: str, towers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"there is no file or folder {name}"):
        open_inputs([name], towers=towers)


@pytest.mark.parametrize("text", ["see example.com", "example.com", "read missing.pdf first", "and so on..."])
def test_other_words_are_texts(text: str) -> None:
    assert [source.item for source in open_inputs([text], towers=("text",))] == [text]


def test_a_cluster_does_not_split_a_csv_file() -> None:
    with pytest.raises(UsageError, match=r"t.csv cannot be split among workers; convert it to \.parquet"):
        _format("t.csv", "text")
