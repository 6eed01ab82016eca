from __future__ import annotations

import errno
import os

import pytest

from runtime import console


@pytest.mark.parametrize("cell", ["日本語", "ｆｕ", "🙂🙂", "e\u0301e\u0301xx", "👍\u200d👍", "abcd"])
def test_columns_are_as_wide_as_a_terminal_shows_them(cell: str) -> None:
    columns = {"日本語": 6, "ｆｕ": 4, "🙂🙂": 4, "e\u0301e\u0301xx": 4, "👍\u200d👍": 4, "abcd": 4}[cell]
    assert console.table(["a", "b"], [[cell, 1]]).splitlines() == [
        "a" + " " * (columns - 1) + "  b",
        "-" * columns + "  -",
        cell + "  1",
    ]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("\x1b[2Ja\nb", r"\x1b[2Ja\nb"),
        ("a\u202eb\x00", r"a\u202eb\x00"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("東\u3000京\xa0x", "東\u3000京\xa0x"),
    ],
)
def test_a_cell_cannot_drive_the_terminal(cell: str, shown: str) -> None:
    assert console.table(["name"], [[cell]]).splitlines()[2:] == [shown]


def test_too_many_open_files_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert console.run(fail) == console.FAILURE
    assert capsys.readouterr().err.endswith("Too many open files; raise the limit of open files (`ulimit -n`)\n")


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (MemoryError(), "MemoryError; free some memory, or raise its limit"),
        (
            RuntimeError("can't start new thread"),
            "(`ulimit -u`, or that of the container)",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "also in the folder of temporary files (TMPDIR)"),
        (FileNotFoundError("No usable temporary directory found"), "found; set TMPDIR to a folder that can be written"),
    ],
)
def test_a_shortage_of_the_system_ends_in_one_line(
    error: Exception, way_out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert console.run(fail) == console.FAILURE
    assert capsys.readouterr().err.endswith(f"{way_out}\n")


def test_another_error_keeps_its_traceback() -> None:
    def fail() -> int:
        raise RuntimeError("a fault of this project")

    with pytest.raises(RuntimeError, match="a fault"):
        console.run(fail)


@pytest.mark.parametrize(("hidden", "drawn"), [(False, True), (True, False), (None, False)])
def test_a_progress_bar_is_drawn_on_standard_error(
    hidden: bool | None, drawn: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress_bar(total=2, unit="case", label="measure", hidden=hidden) as bar:
        bar.update(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("measure: 100%" in err and "case/s" in err) is drawn
