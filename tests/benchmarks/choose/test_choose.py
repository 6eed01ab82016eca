"""Test that the choice of hardware equals a calculation on paper, and that rejections have a reason."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.report.analysis import analyze
from benchmarks.results.schema import Case, Gpu, OwnItems, Results, TimedItems
from tests.benchmarks.choose.distributions import exponential
from tests.benchmarks.samples import ARTIFACT, CASE, MACHINE, NOT_WITH_TORCH, PARITY, PLAN, RESULTS

CLOSE = replace(CASE, parity=replace(PARITY, min_cosine=0.9999))


def case(times_s: list[float], items: int = 1, **changes: Any) -> Case:
    return replace(CLOSE, rounds=(tuple(times_s),) * 2, yardstick=(0.05,) * 2, items=items, **changes)


def measured(name: str, *cases: Case, **changes: Any) -> Results:
    return replace(RESULTS, machine=replace(MACHINE, name=name), cases=cases, **changes)


class Desk:
    """A folder with results and prices, and the output of ``choose`` for them."""

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
        code = main(
            ["choose", *map(str, paths), *where, "--max-p95-ms", bound, "--per-day", "50e6", "--peak", "1", *options]
        )
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


def test_the_choice_of_two_machines_equals_the_calculation_on_paper(desk: Desk) -> None:
    """50 million a day are 578.7 a second, and the response of M/M/1 has p95 = ln(20) / (mu - lambda).

    slow: 40 ms of service alone exceed the limit of 30 ms, with any number of instances.
    small: mu = 200. ln(20) / 0.030 = 99.9, so at most 100.1 a second each: 6 instances at 96.5 a second, with a p95 of
    2.996 / (200 - 96.5) = 28.9 ms, and 35.6 ms with 5. Averages say 578.7 / 200, so 3, at 96 % and 422 ms.
    6 instances x 1 USD x 730 h = 4380 USD a month; 6 USD x 24 h / 50 million = 2.88 USD a million.
    """
    slow = measured("slow", case([0.040]))
    assert desk.choose([slow, SMALL], {"slow": 0.001, "small": 1}) == 0
    assert "Use 6 x small with runtime fp32 on cpu, one item at a time" in desk.output
    assert "4,380.00 per month, USD 2.88 per million items, idle time included" in desk.output
    assert "python -m runtime serve ARTIFACT --provider cpu --variant fp32\n" in desk.output
    assert 'serve ARTIFACT -o REPORT --items FILE --rate 96.45 --server-options "--provider cpu' in desk.output
    assert "averages suggest 3" in desk.output
    assert "with one instance fewer, p95 would be 3" in desk.output
    nearest = "the closest is runtime fp32 on cpu, one item at a time (slow), where p95 is 40 ms without any waiting"
    assert nearest in desk.output
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
def test_cheap_and_slow_machines_compete_with_expensive_and_fast_ones(
    price_of_big: float, bound: str, winner: tuple[str, int], desk: Desk
) -> None:
    answer = desk.answer([SMALL, BIG], {"small": 1, "big": price_of_big}, bound=bound)
    plans = answer["choices"][0]["plans"]
    assert brief(plans[0]) == winner
    assert len(plans) == 2
    assert plans[0]["per_month"] <= plans[1]["per_month"]


def test_capacity_is_named_as_the_limit(desk: Desk) -> None:
    desk.choose([SMALL], {"small": 1}, bound="2000")
    assert "one instance fewer raises the utilization above 95%" in desk.output


def test_instances_are_counted_for_the_peak_and_paid_all_day(desk: Desk) -> None:
    plan = desk.answer([SMALL], {"small": 1}, "--peak", "2")["choices"][0]["plans"][0]
    assert plan["instances"] == 12, "1157.4 a second, at most 100.1 each"
    assert plan["per_million"] == pytest.approx(12 * 24 / 50)


def test_batches_are_chosen_if_they_need_fewer_instances(desk: Desk) -> None:
    # 10 ms for up to 8 items: 800 a second, against 100 one by one, which needs six at the very least.
    both = measured("m", case([0.010]), case([0.010], items=8))
    plan = desk.answer([both], {"m": 1}, bound="40")["choices"][0]["plans"][0]
    assert (plan["batch"], plan["instances"]) == (8, 1)


def test_setups_far_from_torch_or_not_compared_are_rejected(desk: Desk) -> None:
    far = case([0.001], variant="int8", parity=replace(PARITY, min_cosine=0.9971))
    unknown = case([0.001], contender="fastembed", parity=NOT_WITH_TORCH)
    assert desk.choose([measured("m", case([0.005]), far, unknown)], {"m": 1}) == 0
    assert "Use 4 x m with runtime fp32" in desk.output
    assert "cosine similarity to torch below 0.999; the closest is runtime int8 on cpu" in desk.output
    assert "not compared with torch: fastembed fp32 on cpu (m)" in desk.output
    desk.choose([measured("m", case([0.005]), far, unknown)], {"m": 1}, "--min-cosine", "0.99")
    assert "Use 1 x m with runtime int8" in desk.output


def test_a_comparison_with_the_graph_is_none_with_torch(desk: Desk) -> None:
    assert desk.choose([measured("m", case([0.005], parity=NOT_WITH_TORCH))], {"m": 1}, "--min-cosine", "-1") == 1
    assert "not compared with torch: runtime fp32 on cpu (m)" in desk.output
    assert "name the weights of the export with --weights" in desk.output


@pytest.mark.parametrize(("cosine", "reason"), [(0.9, "parity"), (None, "no parity")])
def test_a_batch_size_far_from_torch_leaves_the_smaller_ones(cosine: float | None, reason: str, desk: Desk) -> None:
    far = case([0.006], items=8, parity=replace(PARITY, min_cosine=cosine) if cosine else NOT_WITH_TORCH)
    answer = desk.answer([measured("m", case([0.005]), far)], {"m": 1})["choices"][0]
    assert [plan["batch"] for plan in answer["plans"]] == [1]
    assert [(each["batch"], each["reason"]) for each in answer["left_out"]] == [(8, reason)]


def test_a_machine_without_a_price_is_rejected(desk: Desk) -> None:
    assert desk.choose([SMALL, BIG], {"small": 1}) == 0
    assert "Use 6 x small" in desk.output
    assert '[machines."big"]' in desk.output
    assert "--machine" in desk.output


def test_without_a_plan_the_closest_deployment_and_advice_are_named(desk: Desk) -> None:
    far = case([0.001], variant="int8", parity=replace(PARITY, min_cosine=0.99))
    slow = measured("slow", case([0.040]), case([0.035], variant="fp16"), far)
    assert desk.choose([slow], {"slow": 1}) == 1
    assert "No deployment meets the requirements" in desk.output
    assert "raise --max-p95-ms" in desk.output
    assert "or your own items with --items if they are smaller than the built-in ones" in desk.output
    assert "lower --min-cosine" in desk.output
    assert "where p95 is 35 ms" in desk.output
    assert desk.choose([SMALL], {"other": 1}) == 1
    assert "add the machine to the price file" in desk.output


def test_only_end_to_end_cases_count(desk: Desk) -> None:
    graph = case([0.0001], stage="graph")
    assert desk.choose([measured("m", graph, case(exponential(0.005)))], {"m": 1}) == 0
    assert "Use 6 x m" in desk.output
    assert desk.choose([measured("m", graph)], {"m": 1}) == 1
    assert "stage end_to_end" in desk.error


def test_each_artifact_gets_its_own_choice(desk: Desk) -> None:
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
    assert "several artifacts are called toy-text" in answer["warnings"][1]
    answer = desk.answer(results, prices, "--artifact", "other")
    assert [each["artifact"] for each in answer["choices"]] == ["other"]


def test_texts_of_one_length_are_not_compared_with_others(desk: Desk) -> None:
    answer = desk.answer([measured("m", case([0.005]), case([0.001], items=8, tokens=16))], {"m": 1})
    assert [(each["tokens"], each["plans"][0]["batch"]) for each in answer["choices"]] == [(None, 1), (16, 8)]


@pytest.mark.parametrize("option", [("--artifact", "nope"), ("--tower", "image")], ids="=".join)
def test_artifacts_and_towers_without_cases_are_refused(option: tuple[str, str], desk: Desk) -> None:
    assert desk.choose([SMALL], {"small": 1}, *option) == 2
    assert "the results have: toy-text, text" in desk.error


def test_times_of_built_in_items_are_named_as_such(desk: Desk) -> None:
    timed = TimedItems(source="docstrings", are_texts=True, sizes=(3000, 20, 80))
    mine = replace(PLAN, items={"text": OwnItems(source="mine.txt", sha256="a" * 64)})
    results = measured("slow", case([0.040]), timed_items={"text": timed})
    assert desk.choose([results], {"slow": 1}) == 1
    assert "built-in items: 3 texts of 20 to 3,000 characters (median 80), from docstrings" in desk.output
    assert desk.choose([replace(results, plan=mine)], {"slow": 1}) == 1
    assert "built-in" not in desk.output


def test_machines_with_other_items_are_not_compared(desk: Desk) -> None:
    mine = replace(PLAN, items={"text": OwnItems(source="mine.txt", sha256="a" * 64)})
    assert desk.choose([SMALL, replace(BIG, plan=mine)], {"small": 1, "big": 1}) == 1
    assert "the items of the text tower differ" in desk.error
    assert "1.json are mine.txt (hash aaaaaaaaaaaa); measure with the same --items" in desk.error
    assert desk.choose([replace(SMALL, plan=mine), replace(BIG, plan=mine)], {"small": 1, "big": 1}) == 0
    other = replace(BIG, plan=mine, artifacts=(replace(ARTIFACT, seal="1" * 64),))  # it is not compared with SMALL
    assert desk.choose([SMALL, other], {"small": 1, "big": 1}) == 0


def test_texts_of_different_versions_of_python_are_named(desk: Desk) -> None:
    newer = replace(BIG, machine=replace(BIG.machine, python="3.12.1"))
    assert desk.choose([SMALL, newer], {"small": 1, "big": 1}) == 0
    assert "docstrings of Python, and those of Python 3.11.7 and 3.12.1 differ" in desk.output


def test_a_machine_that_was_not_used_as_a_whole_is_named(desk: Desk) -> None:
    gpus = (Gpu(name="A GPU", memory_bytes=2**34, driver="580"),) * 8
    half = replace(SMALL, machine=replace(SMALL.machine, cores=8, cores_allowed=8, gpus=gpus))
    assert desk.choose([half], {"small": 1}) == 0
    assert "an instance uses 2 of the 8 cores of small" in desk.output
    assert "GPUs" not in desk.output
    assert desk.choose([replace(half, cases=(case([0.005], provider="cuda"),))], {"small": 1}) == 0
    assert "an instance uses 1 of the 8 GPUs of small" in desk.output


def test_two_machines_with_one_name_are_refused(desk: Desk) -> None:
    other = replace(SMALL, machine=replace(SMALL.machine, cpu="another", threads=1))
    assert desk.choose([SMALL, other], {"small": 1}) == 1
    assert "differ (cpu A CPU of 2 cores -> another; threads 2 -> 1)" in desk.error
    assert "--machine" in desk.error
    gpus = [Gpu(name="H200", memory_bytes=1, driver=driver) for driver in ("570", "580")]
    upgraded = [replace(SMALL, machine=replace(SMALL.machine, gpus=(gpu,))) for gpu in gpus]
    assert desk.choose(upgraded, {"small": 1}) == 0, "another driver makes no other machine"


def test_the_newest_times_of_a_case_are_used(desk: Desk) -> None:
    newer = measured("small", case([0.001]), date="2026-11-23T09:00:00+00:00")
    for order in ([SMALL, newer], [newer, SMALL]):
        answer = desk.answer(order, {"small": 1})
        assert brief(answer["choices"][0]["plans"][0]) == ("small", 1)
        known = "1 case was measured more than once on the same machine; the newest times are used"
        assert answer["warnings"][0] == known


def test_items_of_older_times_are_not_compared(desk: Desk) -> None:
    mine = replace(PLAN, items={"text": OwnItems(source="mine.txt", sha256="a" * 64)})
    newer = measured("small", case([0.001]), date="2026-11-23T09:00:00+00:00")
    older = replace(SMALL, plan=mine, machine=replace(SMALL.machine, python="3.12.1"))
    assert desk.choose([older, newer], {"small": 1}) == 0
    other = replace(older, cases=(*older.cases, case([0.02], items=8)))  # its larger batch is used
    assert desk.choose([other, newer], {"small": 1}) == 1
    assert "the items of the text tower differ" in desk.error


def test_warnings_are_printed(desk: Desk) -> None:
    shaky = replace(case([0.005]), rounds=((0.001,), (0.009,)) * 3)
    broken = case([0.0], variant="fp16")
    results = measured("m", shaky, broken, complete=False, artifacts=(replace(ARTIFACT, random=True),))
    assert desk.choose([results], {"m": 1}) == 0
    for doubt in (
        "0.json is incomplete",
        "fp16 on cpu with batch size 1 has no valid times",
        "random",
        "unstable: the times",
    ):
        assert doubt in desk.output


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"rounds": ((0.005,),) * 3}, "few rounds"),
        ({"rounds": ((0.005,),) * 5, "stolen": (0.5,) * 5}, "disturbed"),
        ({"rounds": ((0.005,),) * 5}, ""),
    ],
)
def test_times_are_judged_as_in_the_report(changes: dict[str, Any], warning: str, desk: Desk) -> None:
    results = measured("m", replace(case([0.005]), **changes))
    (plan,) = desk.answer([results], {"m": 1})["choices"][0]["plans"]
    assert plan["warning"] == warning == analyze(results, None).rows[0].warning
    assert plan["stable"] is not bool(warning)
    desk.choose([results], {"m": 1})
    assert re.search(rf"\b{warning or 'stable'}\b", desk.output)


@pytest.mark.parametrize(
    "option",
    [
        ("--per-day", "0"),
        ("--per-day", "nan"),
        ("--per-day", "many"),
        ("--per-day", "1e300"),
        ("--max-p95-ms", "-1"),
        ("--max-p95-ms", "inf"),
        ("--min-cosine", "1.1"),
        ("--peak", "0.5"),
        ("--peak", "1e9"),
    ],
    ids="=".join,
)
def test_wrong_numbers_are_refused(option: tuple[str, str], desk: Desk) -> None:
    with pytest.raises(SystemExit, match="2"):
        desk.choose([SMALL], {"small": 1}, *option)
    assert option[0] in desk.capsys.readouterr().err
