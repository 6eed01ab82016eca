"""Test that files which announce huge sizes cost little memory, measured for the whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.bombs import bombs
from tests.fuzz.targets import Targets
from tests.paths import ROOT

MEGABYTES = 100  # each bomb would take 200 or more; Python itself takes about 30
CODE = """
import sys
from pathlib import Path
from runtime.machine.limits import read_peak_bytes
from tests.fuzz.bombs import bombs
from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import Targets

targets = Targets(Path(sys.argv[1]))
waiting = list(bombs().values())
for name in {name for name, _ in waiting}:
    targets.by_name[name](next(iter(seeds_of(name).values())))
before = read_peak_bytes()
for name, data in waiting:
    targets.by_name[name](data)
DETONATE
print((read_peak_bytes() - before) // 2**20)
"""
BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_defused(name: str, targets: Targets) -> None:
    target, data = BOMBS[name]
    targets.by_name[target](data)


def _megabytes(scratch: Path, detonate: str = "") -> int:
    command = [sys.executable, "-W", "error", "-c", CODE.replace("DETONATE", detonate), str(scratch)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    assert found.stderr == ""
    return int(found.stdout)


@pytest.mark.process
def test_bombs_cost_little_memory(tmp_path: Path) -> None:
    assert _megabytes(tmp_path) < MEGABYTES


@pytest.mark.process
def test_the_memory_check_can_fail(tmp_path: Path) -> None:
    assert _megabytes(tmp_path, "held = b'x' * 2 * 10**8") > MEGABYTES
