"""The report says what became better and what it cost."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from exporters.fit.report import FitReport

REPORT = FitReport(
    model="<b>mine",
    kind="pairs",
    loss="ranking",
    rows=100,
    rows_per_epoch=100,
    single_labels=0,
    eval_rows=20,
    skipped=2,
    main_metric="ndcg@10",
    before={"recall@1": 0.5, "ndcg@10": 0.6},
    after={"recall@1": 0.625, "ndcg@10": 0.75},
    evaluations=[{"ndcg@10": 0.7}, {"ndcg@10": 0.75}],
    losses=[2.0, 1.0, 0.5],
    parameters=1234567,
    seconds=6,
    steps=3,
    resumed_at=0,
    peak_memory_bytes=1_500_000_000,
    options={"seed": 0},
)


def test_the_text_compares() -> None:
    assert REPORT.describe() == (
        "100 rows of pairs (2 bad rows left out), loss ranking, 1,234,567 parameters trained in 3 steps: 6 s, "
        "2.00 s a step, 1.5 GB of memory at most\n"
        "metric    before  after\n"
        "--------  ------  ------\n"
        "recall@1  0.5000  0.6250\n"
        "ndcg@10   0.6000  0.7500"
    )
    resumed = replace(REPORT, steps=9, resumed_at=6)
    assert "trained in 9 steps: 6 s from step 6 on, 2.00 s a step, 1.5 GB" in resumed.describe()
    partly = replace(REPORT, rows_per_epoch=8, single_labels=20)
    assert "100 rows of pairs (8 of 100 rows an epoch; 20 labels have one item; 2 bad rows left out)," in (
        partly.describe()
    )
    without = replace(REPORT, main_metric=None, before={}, after={})
    assert "nothing tells whether the model is better" in without.describe()


@pytest.mark.parametrize(("after", "worse"), [(0.75, False), (0.6, False), (0.59, True), (float("nan"), True)])
def test_worse_is_below_before_or_no_number(after: float, worse: bool) -> None:
    assert replace(REPORT, after={"recall@1": 1.0, "ndcg@10": after}).worse is worse
    assert not replace(REPORT, main_metric=None, before={}, after={}).worse


def test_the_page_shows_the_curve(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    points = re.findall(r'points="([^"]+)"', page)
    assert points == ["56.0,10.0 304.0,118.0 552.0,172.0"]
    assert "<b>mine" not in page
    assert "<td>2<td>0.7500" in page
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["after"]["ndcg@10"] == 0.75
    replace(REPORT, losses=[1.0], main_metric=None, before={}, after={}).write(tmp_path)
    assert "One step has no curve" in (tmp_path / "report.html").read_text("utf-8")
