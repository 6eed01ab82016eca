"""Test the checks of files and paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.preprocess.files import check_regular_file, describe_file_error, looks_like_image_path
from runtime.preprocess.item import UnusableItemError


def test_image_paths_are_one_word_or_exist(tmp_path: Path) -> None:
    spaced = tmp_path / "two words.PNG"
    assert looks_like_image_path("folder/a.JPG")
    assert not looks_like_image_path("folder/a.txt")
    assert not looks_like_image_path(str(spaced))
    spaced.touch()
    assert looks_like_image_path(str(spaced))
    assert not looks_like_image_path("long text " * 1000 + "a.png")


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
