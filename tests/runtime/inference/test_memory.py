"""One outsized batch does not keep its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.toy_artifact import write_artifact

ROOT = Path(__file__).parents[3]
MEASURE = """
import sys
import numpy as np
import psutil
import runtime
model = runtime.load(sys.argv[1], provider="cpu", threads=1)
rss = psutil.Process().memory_info
model.embed(["a b"])
tower = model.backend.towers["text"]
rows = tower.prepare(["a"]) * 4000
feeds = {name: np.ones((4000, 4096), np.int64) for name in ("input_ids", "attention_mask")}
tower.collate = lambda rows: feeds
before = rss().rss
tower.embed(rows)
print((rss().rss - before) / feeds["input_ids"].nbytes)
"""


@pytest.mark.process
def test_the_memory_of_an_outsized_batch_is_given_back(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    artifact = write_artifact(tmp_path / "toy", max_length=4096, inputs=("input_ids", "attention_mask"))
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(artifact)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.2, "the graph needs at least half of its input, as float32"
