"""Test the checks of files and paths."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from runtime.preprocess.files import check_regular_file, describe_file_error
from runtime.preprocess.image import load_image
from runtime.preprocess.image_formats import has_image_suffix, looks_like_image_path
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.formats import read_mesh_file


def test_image_paths_are_one_word_or_exist(tmp_path: Path) -> None:
    spaced = tmp_path / "two words.PNG"
    assert looks_like_image_path("folder/a.JPG")
    assert not looks_like_image_path("folder/a.txt")
    assert not looks_like_image_path(str(spaced))
    spaced.touch()
    assert looks_like_image_path(str(spaced))
    assert not looks_like_image_path("long text " * 1000 + "a.png")


@pytest.mark.parametrize("suffix", ["avif", "jp2", "mpo", "jfif", "HEIC", "im"])
def test_an_existing_file_of_any_image_suffix_is_a_path(tmp_path: Path, suffix: str) -> None:
    """A word such as ``domain.im`` is a text, unless there is such a file."""
    path = tmp_path / f"a.{suffix}"
    assert not looks_like_image_path(str(path))
    path.touch()
    assert looks_like_image_path(str(path))


def test_an_existing_file_of_another_suffix_is_no_image(tmp_path: Path) -> None:
    for name in ("a.txt", "a.pdf", "a.eps", "a.", "a"):
        (tmp_path / name).touch()
        assert not looks_like_image_path(str(tmp_path / name))


def test_a_suffix_is_judged_without_a_look_at_files(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    path.touch()
    assert looks_like_image_path(str(path))
    assert not has_image_suffix(str(path))
    assert not has_image_suffix("two words.png")
    assert not has_image_suffix("png")
    assert has_image_suffix("folder/a.JPG")


def test_only_regular_files_pass(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_regular_file(tmp_path / "file")
    with pytest.raises(UnusableItemError, match="the path is empty"):
        check_regular_file("")
    with pytest.raises(IsADirectoryError):
        check_regular_file(tmp_path)


def test_a_path_below_a_file_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        check_regular_file(tmp_path / "file" / "a.png")
    assert describe_file_error(caught.value) == "there is no such file"
    assert describe_file_error(ValueError("other")) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no.jpg", "there is no such file"),
        ("a cat", "there is no such file; if it is a text, this tower takes only files"),
        ("~/no.jpg", "there is no such file; write out the home folder that ~ stands for"),
        (
            "https://localhost/a.jpg",
            "there is no such file, and nothing is downloaded; give the path or the bytes of a file",
        ),
    ],
)
def test_a_missing_file_is_explained_by_its_name(name: str, reason: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        check_regular_file(name)
    assert describe_file_error(caught.value) == reason


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("item", ["a.png", "a.obj"])
def test_a_process_that_may_open_no_more_files_blames_no_item(
    item: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(number, "Too many open files")

    for module in ("image", "mesh.formats"):
        monkeypatch.setattr(f"runtime.preprocess.{module}.check_regular_file", fail)
    with pytest.raises(OSError, match="Too many open files"):
        load_image(item) if item.endswith("png") else read_mesh_file(item)
