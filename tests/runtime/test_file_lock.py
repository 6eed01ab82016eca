from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import file_lock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    return path


def test_a_file_is_locked_until_it_is_closed(file: Path) -> None:
    first, second = os.open(file, os.O_RDWR), os.open(file, os.O_RDWR)
    file_lock.lock_file(first)
    with pytest.raises(BlockingIOError):
        file_lock.lock_file(second)
    os.close(first)
    file_lock.lock_file(second)
    os.close(second)


@pytest.mark.parametrize("is_locked", [False, True])
def test_windows_locks_a_byte_behind_the_data(is_locked: bool, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    def locking(descriptor: int, mode: int, size: int) -> None:
        places.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, size))
        if is_locked:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(sys, "platform", "win32")
    lock_file = runpy.run_path(str(file_lock.__file__))["lock_file"]
    descriptor = os.open(file, os.O_RDWR)
    os.lseek(descriptor, 3, os.SEEK_SET)
    if is_locked:
        with pytest.raises(BlockingIOError, match="Permission denied"):
            lock_file(descriptor)
    else:
        lock_file(descriptor)
    assert places == [(0x7FFF_FFF0, 2, 1)]
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 3
    os.close(descriptor)
