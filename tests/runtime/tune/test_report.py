"""What a report says: the fastest case, the front, and the table."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

import runtime
from runtime.errors import TuningError
from runtime.tune.report import (
    RefusedCase,
    explain_no_winner,
    pareto_front,
    render_json,
    render_text,
    summarize,
)
from runtime.tune.worker import take_turn
from tests.runtime.tune.samples import SETTING, case, report


@pytest.mark.parametrize(("spread", "wins"), [(0.0, True), (0.05, True), (0.47, False)])
def test_what_cannot_be_told_apart_from_the_default_does_not_replace_it(spread: float, wins: bool) -> None:
    default, other = case(10, 100), replace(case(9, 110), setting=replace(SETTING, variant="fp16"), spread=spread)
    slower = replace(default, batch_size=8, items_per_s=50)
    found = replace(report(other, default, slower), default=SETTING)
    assert found.winner is (other if wins else default)
    assert ("is not faster than the default" in render_text(found)) is not wins
    assert replace(found, default=None).winner is other


def test_the_front_holds_the_cases_that_no_other_beats() -> None:
    fast, even, slow = case(1, 10), case(5, 50), case(9, 90)
    beaten_by_even, slower_at_no_gain, twin = case(6, 40), case(10, 90), case(1, 10)
    cases = [fast, beaten_by_even, even, slower_at_no_gain, slow, twin]
    assert pareto_front(cases) == [fast, even, slow, twin]
    assert pareto_front([]) == []


def test_the_winner_has_the_highest_throughput_within_the_bound() -> None:
    quick, jumpy, slow = case(1, 10), case(2, 50, p95_ms=30), case(20, 90)
    assert report(quick, jumpy, slow).winner == slow
    assert report(quick, jumpy, slow, max_latency_ms=20).winner == slow
    assert report(quick, jumpy, slow, max_latency_ms=19.9).winner == quick
    assert report(case(3, 90), case(2, 90)).winner == case(2, 90)
    none = report(jumpy, slow, max_latency_ms=19)
    assert none.winner is None
    message = r"no case has a p95 within 19 ms; the fastest is cpu, fp32, 1 thread, batches of 1 with 20 ms"
    with pytest.raises(TuningError, match=message):
        raise explain_no_winner(none)
    with pytest.raises(TuningError, match="nothing can be tuned: cuda: no driver"):
        raise explain_no_winner(replace(none, measured=(), refused=(RefusedCase(name="cuda", reason="no driver"),)))


def test_times_are_of_all_calls_and_throughput_of_whole_turns() -> None:
    figures = summarize(SETTING, 8, [[0.001, 0.003], [0.002, 0.002], [0.1, 0.1]], 0.9999)
    assert figures.calls == 6
    assert figures.p50_ms == pytest.approx(2.5)
    assert figures.items_per_s == pytest.approx(4000)
    assert 90 < figures.p95_ms <= 100
    assert figures.spread == pytest.approx((4000 - 2040) / 4000)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tower", ["text", "image"])
def test_every_item_is_embedded_equally_often_in_a_turn(tower: str, batch_size: int, lanes: int) -> None:
    embedded: list[str] = []
    sizes = set()

    def embed(items: list[str], *, tower: str, batch_size: int | None) -> None:
        embedded.extend(items)
        sizes.add((len(items), batch_size, tower))

    model = cast("runtime.Embedder", SimpleNamespace(embed=embed, towers=(tower,), concurrent_batches=lanes))
    ticks = iter(range(1000))
    seconds = take_turn(model, ["a", "b", "c", "d"], batch_size, clock=lambda: next(ticks) / 1000)
    assert seconds == pytest.approx([0.001] * 4)
    assert len({embedded.count(item) for item in "abcd"}) == 1
    limit = None if tower == "text" else batch_size  # texts are batched as after load()
    assert sizes == {(batch_size * lanes, limit, tower)}


def test_a_turn_of_slow_calls_has_few_of_them() -> None:
    model = cast(
        "runtime.Embedder", SimpleNamespace(embed=lambda *_, **__: None, towers=("text",), concurrent_batches=1)
    )
    ticks = iter(range(1000))
    assert take_turn(model, ["a"], 1, clock=lambda: next(ticks)) == [1]


def test_the_table_has_no_exponents_and_warns_of_noise() -> None:
    found = report(replace(case(1234.5, 0.051234, batch_size=8), spread=0.5), case(1, 0.01))
    out = render_text(found)
    assert "1230" in out
    assert "0.0512" in out
    assert "e+" not in out
    assert "the turns of the winner differ by 50%" in out
    assert "the largest batch size wins" in out
    assert "the largest batch size wins" not in render_text(replace(found, tower="text")), "load() has no use for it"
    assert "differ by" not in render_text(report(case(1, 1)))
    document = json.loads(render_json(found))
    assert (document["winner"]["batch_size"], len(document["front"])) == (8, 2)
