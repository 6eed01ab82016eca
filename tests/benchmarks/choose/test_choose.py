"""The choice of hardware is that which paper gives, and what is not chosen says why. Nothing here is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.choose.cli import main
from benchmarks.results.schema import Case, Results
from tests.benchmarks.choose.test_queueing import exponential
from tests.benchmarks.samples import ARTIFACT, CASE, MACHINE, PARITY, RESULTS

CLOSE = replace(CASE, parity=replace(PARITY, min_cosine=0.9999))


def case(times_s: list[float], items: int = 1, **changes: Any) -> Case:
    return replace(CLOSE, rounds=(tuple(times_s),) * 2, yardstick=(0.05,) * 2, items=items, **changes)


def measured(name: str, *cases: Case, **changes: Any) -> Results:
    return replace(RESULTS, machine=replace(MACHINE, name=name), cases=cases, **changes)


class Desk:
    """A folder with results and prices, and what ``choose`` says of them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.output = self.error = ""

    def choose(self, results: list[Results], prices: dict[str, float], *options: str, bound: str = "30") -> int:
        paths = []
        for number, each in enumerate(results):
            paths.append(self.folder / f"{number}.json")
            paths[-1].write_text(each.to_json())
        toml = 'date = "2026-01-19"\ncurrency = "USD"\n'
        toml += "".join(f'[machines."{name}"]\nper_hour = {price}\nsource = "x"\n' for name, price in prices.items())
        (self.folder / "prices.toml").write_text(toml)
        where = ["--prices", str(self.folder / "prices.toml")]
        code = main([*map(str, paths), *where, "--max-p95-ms", bound, "--per-day", "50e6", "--peak", "1", *options])
        self.output, self.error = self.capsys.readouterr()
        return code

    def answer(self, results: list[Results], prices: dict[str, float], *options: str, bound: str = "30") -> Any:
        self.choose(results, prices, *options, "--json", bound=bound)
        return json.loads(self.output)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def brief(plan: dict[str, Any]) -> tuple[str, int]:
    return plan["machine"], plan["instances"]


SMALL = measured("small", case(exponential(0.005)))
BIG = measured("big", case(exponential(0.002)))


def test_the_right_answer_of_two_machines_is_that_on_paper(desk: Desk) -> None:
    """50 million a day are 578.7 a second, and the response of M/M/1 has p95 = ln(20) / (mu - lambda).

    slow: 40 ms of service alone are past the bound of 30 ms, at any number and price.
    small: mu = 200. ln(20) / 0.030 = 99.9, so at most 100.1 a second each: 6 instances at 96.5 a second, with a p95 of
    2.996 / (200 - 96.5) = 28.9 ms, and 35.6 ms with 5. Averages say 578.7 / 200, so 3, at 96 % and 422 ms.
    6 instances x 1 USD x 730 h = 4380 USD a month; 6 USD x 24 h / 50 million = 2.88 USD a million.
    """
    slow = measured("slow", case([0.040]))
    assert desk.choose([slow, SMALL], {"slow": 0.001, "small": 1}) == 0
    assert "Take 6 x small with runtime fp32 on cpu, one item at a time" in desk.output
    assert "4,380.00 a month, USD 2.88 a million" in desk.output
    assert "Dividing averages gives 3" in desk.output
    assert "with one instance fewer it would be 3" in desk.output
    assert (
        "the nearest is runtime fp32 on cpu, one item at a time (slow), where an item that never waits takes 40 ms"
        in (desk.output)
    )
    answer = desk.answer([slow, SMALL], {"slow": 0.001, "small": 1})["choices"][0]
    (plan,) = answer["plans"]
    assert brief(plan) == ("small", 6)
    assert plan["p95_ms"] == pytest.approx(28.9, rel=0.025)
    assert plan["utilisation"] == pytest.approx(578.7 / 6 / 200, rel=0.01)
    assert answer["reasoning"]["by_averages"] == 3
    assert answer["reasoning"]["fewer_p95_ms"] == pytest.approx(35.6, rel=0.025)


@pytest.mark.parametrize(
    ("price_of_big", "bound", "winner"),
    [
        # big: mu = 500, so at most 400.1 a second each: 2 instances. Averages would take 3 x small for 3 USD.
        (2.5, "30", ("big", 2)),  # 5 USD an hour against 6
        (3.5, "30", ("small", 6)),  # 7 against 6
        # With time to wait, small is bound by its capacity: 3 would be at 96 %, so 4, for 4 USD against 5.
        (2.5, "2000", ("small", 4)),
    ],
)
def test_cheap_and_slow_against_dear_and_fast(
    price_of_big: float, bound: str, winner: tuple[str, int], desk: Desk
) -> None:
    answer = desk.answer([SMALL, BIG], {"small": 1, "big": price_of_big}, bound=bound)
    plans = answer["choices"][0]["plans"]
    assert brief(plans[0]) == winner
    assert len(plans) == 2
    assert plans[0]["per_month"] <= plans[1]["per_month"]


def test_capacity_is_named_where_it_binds(desk: Desk) -> None:
    desk.choose([SMALL], {"small": 1}, bound="2000")
    assert "What binds is capacity" in desk.output


def test_instances_are_counted_for_the_peak_and_paid_for_all_day(desk: Desk) -> None:
    plan = desk.answer([SMALL], {"small": 1}, "--peak", "2")["choices"][0]["plans"][0]
    assert plan["instances"] == 12, "1157.4 a second, at most 100.1 each"
    assert plan["per_million"] == pytest.approx(12 * 24 / 50)


def test_batches_are_taken_where_they_need_fewer_instances(desk: Desk) -> None:
    # 10 ms for up to 8 items: 800 a second, against 100 one by one, which needs six at the very least.
    both = measured("m", case([0.010]), case([0.010], items=8))
    plan = desk.answer([both], {"m": 1}, bound="40")["choices"][0]["plans"][0]
    assert (plan["batch"], plan["instances"]) == (8, 1)


def test_what_is_far_from_torch_or_was_not_compared_is_left_out_and_said_so(desk: Desk) -> None:
    far = case([0.001], variant="int8", parity=replace(PARITY, min_cosine=0.9971))
    unknown = case([0.001], contender="fastembed", parity=None)
    assert desk.choose([measured("m", case([0.005]), far, unknown)], {"m": 1}) == 0
    assert "Take 4 x m with runtime fp32" in desk.output
    assert "farther from torch than a cosine of 0.999; the nearest is runtime int8 on cpu" in desk.output
    assert "such as those of fastembed fp32 on cpu" in desk.output
    desk.choose([measured("m", case([0.005]), far, unknown)], {"m": 1}, "--min-cosine", "0.99")
    assert "Take 1 x m with runtime int8" in desk.output


@pytest.mark.parametrize(("cosine", "reason"), [(0.9, "parity"), (None, "no parity")])
def test_a_batch_that_is_not_close_to_torch_leaves_the_smaller_ones(
    cosine: float | None, reason: str, desk: Desk
) -> None:
    far = case([0.006], items=8, parity=replace(PARITY, min_cosine=cosine) if cosine else None)
    answer = desk.answer([measured("m", case([0.005]), far)], {"m": 1})["choices"][0]
    assert [plan["batch"] for plan in answer["plans"]] == [1]
    assert [(each["batch"], each["reason"]) for each in answer["left_out"]] == [(8, reason)]


def test_a_machine_without_a_price_is_left_out_and_said_so(desk: Desk) -> None:
    assert desk.choose([SMALL, BIG], {"small": 1}) == 0
    assert "Take 6 x small" in desk.output
    assert '[machines."big"]' in desk.output
    assert "--machine" in desk.output


def test_where_nothing_keeps_the_bounds_the_nearest_and_the_way_out_are_named(desk: Desk) -> None:
    far = case([0.001], variant="int8", parity=replace(PARITY, min_cosine=0.99))
    slow = measured("slow", case([0.040]), case([0.035], variant="fp16"), far)
    assert desk.choose([slow], {"slow": 1}) == 1
    assert "Nothing keeps the bounds" in desk.output
    assert "raise --max-p95-ms" in desk.output
    assert "lower --min-cosine" in desk.output
    assert "takes 35 ms" in desk.output
    assert desk.choose([SMALL], {"other": 1}) == 1
    assert "add the machine to the price file" in desk.output


def test_only_files_or_strings_to_vectors_count(desk: Desk) -> None:
    graph = case([0.0001], stage="graph")
    assert desk.choose([measured("m", graph, case(exponential(0.005)))], {"m": 1}) == 0
    assert "Take 6 x m" in desk.output
    assert desk.choose([measured("m", graph)], {"m": 1}) == 1
    assert "stage end_to_end" in desk.error


def test_vectors_of_other_artifacts_are_not_chosen_from(desk: Desk) -> None:
    other = replace(ARTIFACT, name="other", seal="1" * 64)
    again = replace(ARTIFACT, seal="2" * 64)
    results = [
        measured("small", case(exponential(0.005)), case([0.0001], artifact="other"), artifacts=(ARTIFACT, other)),
        measured("big", case([0.0001]), artifacts=(again,)),
    ]
    prices = {"small": 1.0, "big": 1.0}
    answer = desk.answer(results, prices)
    found = [(each["artifact"], each["seal"][0], brief(each["plans"][0])) for each in answer["choices"]]
    assert found == [("other", "1", ("small", 1)), ("toy-text", "0", ("small", 6)), ("toy-text", "2", ("big", 1))]
    assert "several artifacts are called toy-text" in answer["warnings"][0]
    answer = desk.answer(results, prices, "--artifact", "other")
    assert [each["artifact"] for each in answer["choices"]] == ["other"]


def test_texts_of_a_length_are_not_compared_with_others(desk: Desk) -> None:
    answer = desk.answer([measured("m", case([0.005]), case([0.001], items=8, tokens=16))], {"m": 1})
    assert [(each["tokens"], each["plans"][0]["batch"]) for each in answer["choices"]] == [(None, 1), (16, 8)]


@pytest.mark.parametrize("option", [("--artifact", "nope"), ("--tower", "image")], ids="=".join)
def test_what_was_not_measured_cannot_be_asked_for(option: tuple[str, str], desk: Desk) -> None:
    assert desk.choose([SMALL], {"small": 1}, *option) == 2
    assert "there is: toy-text, text" in desk.error


def test_two_machines_of_one_name_are_refused(desk: Desk) -> None:
    other = replace(SMALL, machine=replace(SMALL.machine, cpu="another", threads=1))
    assert desk.choose([SMALL, other], {"small": 1}) == 1
    assert "differ in cpu, threads" in desk.error
    assert "--machine" in desk.error


def test_what_was_measured_twice_counts_as_measured_last(desk: Desk) -> None:
    newer = measured("small", case([0.001]), date="2026-11-23T09:00:00+00:00")
    for order in ([SMALL, newer], [newer, SMALL]):
        answer = desk.answer(order, {"small": 1})
        assert brief(answer["choices"][0]["plans"][0]) == ("small", 1)
        assert answer["warnings"] == ["1 case was measured more than once on the same machine: the last time counts"]


def test_doubts_are_said(desk: Desk) -> None:
    shaky = replace(case([0.005]), rounds=((0.001,), (0.009,)))
    broken = case([0.0], variant="fp16")
    results = measured("m", shaky, broken, complete=False, artifacts=(replace(ARTIFACT, random=True),))
    assert desk.choose([results], {"m": 1}) == 0
    for doubt in ("0.json is incomplete", "fp16 on cpu at 1 items has no times", "random", "unstable: the times"):
        assert doubt in desk.output


@pytest.mark.parametrize(
    "option",
    [
        ("--per-day", "0"),
        ("--per-day", "nan"),
        ("--per-day", "many"),
        ("--max-p95-ms", "-1"),
        ("--max-p95-ms", "inf"),
        ("--min-cosine", "1.1"),
        ("--peak", "0.5"),
    ],
    ids="=".join,
)
def test_wrong_numbers_are_refused(option: tuple[str, str], desk: Desk) -> None:
    with pytest.raises(SystemExit, match="2"):
        desk.choose([SMALL], {"small": 1}, *option)
    assert option[0] in desk.capsys.readouterr().err
