from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.machine.cache_folder import CACHE_VARIABLE, default_cache, usable_cache


def test_the_variable_comes_before_xdg_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache("tuned") == tmp_path / ".cache/embedding-backbones/tuned"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache("tuned") == tmp_path / "xdg/embedding-backbones/tuned"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    assert default_cache("tuned") == tmp_path / "mine/tuned"


def test_a_usable_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "default"))
    assert usable_cache("tuned", None) == str(tmp_path / "default/tuned")
    assert usable_cache("tuned", str(tmp_path / "named")) == str(tmp_path / "named")
    assert (tmp_path / "default/tuned").is_dir()
    assert (tmp_path / "named").is_dir()


def test_an_unusable_folder_is_an_error_only_if_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert usable_cache("openvino", None) is None
    with pytest.raises(UsageError, match=r"the cache folder .*/x cannot be written"):
        usable_cache("openvino", str(tmp_path / "file/x"))
