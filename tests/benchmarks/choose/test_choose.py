"""Test that the choice of machines equals a calculation on paper, and that rejections have a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.report.analysis import analyze
from benchmarks.results.schema import Case, Gpu, OwnItems, Results, TimedItems
from benchmarks.serve.schema import ServeResults, WorkloadRecord
from runtime import console
from tests.benchmarks.exit_codes import run_command
from tests.benchmarks.samples import ARTIFACT, CASE, MACHINE, NOT_WITH_TORCH, PARITY, PLAN, RESULTS
from tests.benchmarks.serve import samples

CLOSE = replace(CASE, parity=replace(PARITY, min_cosine=0.9999))
JOB = ("--count", "5e6", "--hours", "8")
SERVICE = ("--rate", "1000", "--max-p99-ms", "50")


def case(seconds: float, items: int = 1, **changes: Any) -> Case:
    return replace(
        CLOSE, rounds=((seconds,) * 4,) * 5, yardstick=(0.05,) * 5, stolen=(0.0,) * 5, items=items, **changes
    )


def measured(name: str, *cases: Case, **changes: Any) -> Results:
    return replace(RESULTS, machine=replace(MACHINE, name=name), cases=cases, **changes)


def served(name: str, capacity: float, **changes: Any) -> ServeResults:
    """Return the load test of a server. With a ``capacity`` of 300/s, its p99 is 17 ms at 50% and 42 ms at 80%."""
    results = replace(samples.RESULTS, machine=replace(MACHINE, name=name), servers=(samples.SERVER,))
    return replace(results, loads=samples.loads_of("ours", "short", capacity), **changes)


class Desk:
    """A folder with reports and prices, and the output of ``choose`` for them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.output = self.error = ""

    def choose(self, results: Sequence[Results | ServeResults], prices: dict[str, float], *options: str) -> int:
        paths = []
        for number, each in enumerate(results):
            paths.append(self.folder / f"{number}.json")
            paths[-1].write_text(each.to_json())
        toml = 'date = "2026-01-19"\ncurrency = "USD"\n'
        toml += "".join(f'[machines."{name}"]\nper_hour = {price}\nsource = "x"\n' for name, price in prices.items())
        (self.folder / "prices.toml").write_text(toml)
        code = main(["choose", *map(str, paths), "--prices", str(self.folder / "prices.toml"), *options])
        self.output, self.error = self.capsys.readouterr()
        return code

    def answer(self, results: Sequence[Results | ServeResults], prices: dict[str, float], *options: str) -> Any:
        self.choose(results, prices, *options, "--json")
        return json.loads(self.output)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def brief(choice: dict[str, Any]) -> list[tuple[str, int, float]]:
    return [(plan["machine"], plan["machines"], round(plan["cost"], 2)) for plan in choice["plans"]]


SMALL, BIG = served("small", 300), served("big", 600)


def test_a_service_takes_the_rate_of_a_load_test(desk: Desk) -> None:
    """Rates within 50 ms are 240 and 480 per second, so 1000 take 5 or 3 machines; a month has 730 hours."""
    assert desk.choose([SMALL, BIG], {"small": 1, "big": 1.5}, *SERVICE) == 0
    assert "Use 3 x big with ours, int8 on cpu: USD 3,285.00 per month." in desk.output
    assert "Start each with: python -m runtime serve ARTIFACT --variant int8\n" in desk.output
    assert "Each machine gets 333 of the 1,000 requests per second, and can do 480." in desk.output
    (choice,) = desk.answer([SMALL, BIG], {"small": 1, "big": 1.5}, *SERVICE)["choices"]
    assert brief(choice) == [("big", 3, 3285.0), ("small", 5, 3650.0)]
    assert choice["vectors"] == "vs1-0123456789abcdef"
    (choice,) = desk.answer([SMALL, BIG], {"small": 0.6, "big": 1.5}, *SERVICE)["choices"]
    assert brief(choice) == [("small", 5, 2190.0), ("big", 3, 3285.0)]


def test_a_tighter_bound_takes_more_machines(desk: Desk) -> None:
    (choice,) = desk.answer([SMALL], {"small": 1}, "--rate", "1000", "--max-p99-ms", "20")["choices"]
    assert brief(choice) == [("small", 7, 5110.0)]
    assert desk.choose([SMALL], {"small": 1}, "--rate", "1000", "--max-p99-ms", "1") == console.FAILURE
    assert "0.json was measured without --max-p99-ms 1, which adds rates near this bound" in desk.output
    assert "no rate was sustained with a p99 within 1 ms; its smallest p99 is" in desk.output


def test_a_share_without_a_remainder_takes_no_machine_more(desk: Desk) -> None:
    results = [served("m", 101.8)]  # 81.44 per second within 150 ms; as floats, 570.08 / 81.44 is above 7
    (choice,) = desk.answer(results, {"m": 1}, "--rate", "570.08", "--max-p99-ms", "150")["choices"]
    assert brief(choice)[0][:2] == ("m", 7)


def test_the_highest_rate_that_was_tried_is_marked(desk: Desk) -> None:
    loads = tuple(load for load in SMALL.loads if (load.rate or 0) < 200)
    assert desk.choose([replace(SMALL, loads=loads)], {"small": 1}, *SERVICE) == 0
    assert "the highest tried" in desk.output
    desk.choose([SMALL], {"small": 1}, *SERVICE)
    assert "the highest tried" not in desk.output


def test_a_p99_of_too_few_requests_is_not_judged(desk: Desk) -> None:
    few = tuple(replace(load, completed=40, latency_s=load.latency_s[:40]) for load in SMALL.loads)
    assert desk.choose([replace(SMALL, loads=few)], {"small": 1}, *SERVICE) == console.FAILURE
    assert "too few requests to compare its p99 with --max-p99-ms; measure with more --seconds" in desk.output


def test_only_servers_of_the_same_vectors_are_compared(desk: Desk) -> None:
    other = replace(samples.ARTIFACT, space="vs1-fedcba9876543210")
    theirs = replace(BIG, servers=(replace(samples.SERVER, artifact=other),))
    answer = desk.answer([SMALL, theirs], {"small": 1, "big": 1}, *SERVICE)
    assert [brief(choice)[0][0] for choice in answer["choices"]] == ["small", "big"]
    assert any("several artifacts are called toy" in warning for warning in answer["warnings"])
    fp32 = replace(samples.ARTIFACT, space="vs1-0123456789abcdef", variant="fp32")
    exact = replace(BIG, servers=(replace(samples.SERVER, artifact=fp32),))
    (choice,) = desk.answer([SMALL, exact], {"small": 1, "big": 1}, *SERVICE)["choices"]
    assert [plan["machine"] for plan in choice["plans"]] == ["big", "small"]


def test_a_server_of_an_unknown_space_is_ignored(desk: Desk) -> None:
    unknown = replace(samples.SERVER, name="theirs", artifact=None)
    both = replace(
        SMALL, servers=(*SMALL.servers, unknown), loads=(*SMALL.loads, *samples.loads_of("theirs", "short", 9))
    )
    assert desk.choose([both], {"small": 1}, *SERVICE) == 0
    assert "theirs is ignored, because it does not name the vector space" in desk.output
    assert desk.choose([replace(SMALL, servers=(replace(unknown, name="ours"),))], {"small": 1}, *SERVICE) == 1
    assert "no report has an open loop of a server that names its vector space" in desk.error


def test_a_server_far_from_its_reference_or_without_one_is_rejected(desk: Desk) -> None:
    for cosine, reason in ((0.99, "cosine similarity down to 0.99"), (None, "measure with --verify ARTIFACT")):
        loads = tuple(replace(load, min_cosine=cosine) for load in SMALL.loads)
        assert desk.choose([replace(SMALL, loads=loads)], {"small": 1}, *SERVICE) == console.FAILURE
        assert reason in desk.output
    assert desk.choose([replace(SMALL, min_cosine=0.9)], {"small": 1}, *SERVICE, "--min-cosine", "0.9") == 0


def test_warnings_of_a_load_test_are_repeated(desk: Desk) -> None:
    assert desk.choose([replace(SMALL, complete=False)], {"small": 1}, *SERVICE) == 0
    assert f"warning: {desk.folder / '0.json'}: The run stopped before everything was measured." in desk.output


@pytest.mark.parametrize(("workload", "code"), [("own", console.FAILURE), ("short", 0)])
def test_servers_with_other_items_are_not_compared(workload: str, code: int, desk: Desk) -> None:
    results = [
        replace(
            each,
            workloads=(WorkloadRecord(name=workload, source="made up", sha256=digit * 64),),
            loads=tuple(replace(load, workload=workload) for load in each.loads),
        )
        for each, digit in ((SMALL, "0"), (BIG, "1"))
    ]
    assert desk.choose(results, {"small": 1, "big": 1}, *SERVICE) == code
    assert "1.json differ" in desk.output + desk.error


def test_a_job_takes_the_throughput_of_large_calls(desk: Desk) -> None:
    """5 million items in 8 hours are 173.6 per second; 100 per second take 2 machines, 13.9 hours and 13.89 USD."""
    results = [measured("small", case(0.001), case(0.32, items=32)), measured("big", case(0.16, items=32))]
    assert desk.choose(results, {"small": 1, "big": 3}, *JOB) == 0
    assert "Use 2 x small with runtime fp32 on cpu: USD 13.89 for the job." in desk.output
    assert "python -m runtime embed ARTIFACT INPUT -o OUTPUT --provider cpu --variant fp32\n" in desk.output
    (choice,) = desk.answer(results, {"small": 1, "big": 3}, *JOB)["choices"]
    assert brief(choice) == [("small", 2, 13.89), ("big", 1, 20.83)]


def test_a_demand_is_that_of_a_service_or_of_a_job(desk: Desk) -> None:
    for options in ((), ("--rate", "1"), ("--count", "1"), (*JOB, "--rate", "1"), (*SERVICE, "--hours", "1")):
        assert desk.choose([SMALL], {"small": 1}, *options) == console.WRONG_USAGE
        assert "give --rate and --max-p99-ms for a service, or --count and --hours for a job" in desk.error
    assert desk.choose([SMALL], {"small": 1}, *JOB) == console.FAILURE
    assert "has no schema_version; name a results.json of `python -m benchmarks ARTIFACT" in desk.error
    assert desk.choose([measured("m", case(0.1))], {"m": 1}, *SERVICE) == console.FAILURE
    assert "has no serve_schema_version; name a results.json of `python -m benchmarks serve" in desk.error


def test_setups_far_from_torch_or_not_compared_are_rejected(desk: Desk) -> None:
    far = case(0.001, variant="int8", parity=replace(PARITY, min_cosine=0.9971))
    unknown = case(0.001, contender="fastembed", parity=NOT_WITH_TORCH)
    results = [measured("m", case(0.005), far, unknown)]
    assert desk.choose(results, {"m": 1}, *JOB) == 0
    assert "Use 1 x m with runtime fp32" in desk.output
    assert "- runtime int8 on cpu (m): cosine similarity down to 0.9971" in desk.output
    assert "- fastembed fp32 on cpu (m): not compared with torch; measure where torch is installed" in desk.output
    assert desk.choose(results, {"m": 1}, *JOB, "--min-cosine", "0.99") == 0
    assert "Use 1 x m with runtime int8" in desk.output


def test_a_machine_without_a_price_is_rejected(desk: Desk) -> None:
    assert desk.choose([SMALL, BIG], {"small": 1}, *SERVICE) == 0
    assert "Use 5 x small" in desk.output
    assert '[machines."big"]' in desk.output
    assert desk.choose([BIG], {"small": 1}, *SERVICE) == console.FAILURE
    assert "No setup meets the requirements." in desk.output


def test_only_valid_end_to_end_cases_count(desk: Desk) -> None:
    graph = case(0.0001, stage="graph")
    (choice,) = desk.answer([measured("m", graph, case(0.005), case(0.0, variant="fp16"))], {"m": 1}, *JOB)["choices"]
    assert [plan["per_s"] for plan in choice["plans"]] == [pytest.approx(200)]
    assert choice["rejected"] == [
        {"machine": "m", "setup": "runtime fp16 on cpu", "reason": "no valid times; measure again"}
    ]
    assert desk.choose([measured("m", graph)], {"m": 1}, *JOB) == console.FAILURE
    assert "stage end_to_end" in desk.error


def test_each_artifact_gets_its_own_choice(desk: Desk) -> None:
    other = replace(ARTIFACT, name="other", seal="1" * 64)
    again = replace(ARTIFACT, seal="2" * 64)
    far = case(0.1, artifact="other", parity=replace(PARITY, min_cosine=0.5))
    results = [
        measured("small", case(0.005), far, artifacts=(ARTIFACT, other)),
        measured("big", case(0.001), artifacts=(again,)),
    ]
    prices = {"small": 1.0, "big": 1.0}
    answer = desk.answer(results, prices, *JOB)
    assert [(each["artifact"], each["vectors"][0], len(each["plans"])) for each in answer["choices"]] == [
        *(("other", "1", 0), ("toy-text", "0", 1), ("toy-text", "2", 1))
    ]
    assert any("several artifacts are called toy-text" in warning for warning in answer["warnings"])
    assert desk.choose(results, prices, *JOB) == 0  # one artifact has a plan
    assert desk.choose(results, prices, *JOB, "--artifact", "other") == console.FAILURE
    assert "toy-text" not in desk.output
    assert desk.choose(results, prices, *JOB, "--artifact", "nope") == console.WRONG_USAGE
    assert "they have: other, toy-text" in desk.error


def test_doubts_of_jobs_are_printed(desk: Desk) -> None:
    timed = TimedItems(source="docstrings", are_texts=True, sizes=(3000, 20, 80))
    gpus = (Gpu(name="A GPU", memory_bytes=2**34, driver="580"),) * 8
    first = measured(
        "m", case(0.04), complete=False, artifacts=(replace(ARTIFACT, random=True),), timed_items={"text": timed}
    )
    first = replace(first, machine=replace(first.machine, cores=8, cores_allowed=8, gpus=gpus))
    newer = replace(BIG.machine, name="n", python="3.12.1")
    second = replace(first, machine=newer, cases=(case(0.04, provider="cuda"),))
    assert desk.choose([first, second], {"m": 1, "n": 1}, *JOB) == 0
    for doubt in (
        "0.json is incomplete",
        "built-in items: 3 texts of 20 to 3,000 characters (median 80), from docstrings",
        "docstrings of Python, and those of Python 3.11.7 and 3.12.1 differ",
        "the weights of toy-text are random: its vectors have no meaning; a stand-in tokenizer",
        "2 of the 8 cores of m were used",
    ):
        assert doubt in desk.output
    assert "GPUs" not in desk.output
    assert desk.choose([replace(first, cases=second.cases)], {"m": 1}, *JOB) == 0
    assert "1 of the 8 GPUs of m was used" in desk.output


def test_jobs_with_other_items_are_not_compared(desk: Desk) -> None:
    mine = replace(PLAN, items={"text": OwnItems(source="mine.txt", sha256="a" * 64)})
    small, big = measured("small", case(0.1)), measured("big", case(0.1), plan=mine)
    assert desk.choose([small, big], {"small": 1, "big": 1}, *JOB) == console.FAILURE
    assert "the items of the text tower differ" in desk.error
    assert desk.choose([replace(small, plan=mine), big], {"small": 1, "big": 1}, *JOB) == 0
    other = replace(big, artifacts=(replace(ARTIFACT, seal="1" * 64),))  # it is not compared with small
    assert desk.choose([small, other], {"small": 1, "big": 1}, *JOB) == 0
    newer = measured("small", case(0.1), plan=mine, date="2026-11-23T09:00:00+00:00")  # it replaces small
    assert desk.choose([small, big, newer], {"small": 1, "big": 1}, *JOB) == 0


@pytest.mark.parametrize("demand", [SERVICE, JOB], ids=["service", "job"])
def test_two_machines_with_one_name_are_refused(demand: tuple[str, ...], desk: Desk) -> None:
    small: Results | ServeResults = SMALL if demand is SERVICE else measured("small", case(0.1))
    other = replace(small, machine=replace(small.machine, cpu="another", threads=1))
    assert desk.choose([small, other], {"small": 1}, *demand) == console.FAILURE
    assert "differ (cpu A CPU of 2 cores -> another; threads 2 -> 1)" in desk.error
    gpus = [Gpu(name="H200", memory_bytes=1, driver=driver) for driver in ("570", "580")]
    upgraded = [replace(small, machine=replace(small.machine, gpus=(gpu,))) for gpu in gpus]
    assert desk.choose(upgraded, {"small": 1}, *demand) == 0, "another driver makes no other machine"


def test_a_server_elsewhere_may_be_measured_from_several_machines(desk: Desk) -> None:
    here, there = (replace(SMALL, servers=(replace(samples.SERVER, started_here=local),)) for local in (True, False))
    assert (
        desk.choose([here, replace(there, machine=replace(SMALL.machine, cpu="a laptop"))], {"small": 1}, *SERVICE) == 0
    )


def test_the_newest_figures_of_a_setup_are_used(desk: Desk) -> None:
    newer = served("small", 600, date="2026-11-27T09:00:00+00:00")
    for order in ([SMALL, newer], [newer, SMALL]):
        answer = desk.answer(order, {"small": 1}, *SERVICE)
        assert brief(answer["choices"][0]) == [("small", 3, 2190.0)]
        assert (
            "1 setup was measured more than once on the same machine; the newest figures are used" in answer["warnings"]
        )


def test_times_are_judged_as_in_the_report(desk: Desk) -> None:
    shaky = replace(case(0.005), stolen=(0.5,) * 5)
    results = measured("m", shaky)
    (plan,) = desk.answer([results], {"m": 1}, *JOB)["choices"][0]["plans"]
    assert (
        plan["remark"] == f"1 item per call, {analyze(results, None).rows[0].warning}" == "1 item per call, disturbed"
    )


@pytest.mark.parametrize(
    "option",
    [
        ("--rate", "0"),
        ("--rate", "1e300"),
        ("--max-p99-ms", "inf"),
        ("--count", "nan"),
        ("--hours", "many"),
        ("--min-cosine", "1.1"),
    ],
    ids="=".join,
)
def test_wrong_numbers_are_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("choose", "report", "--prices", "prices.toml", *option) == console.WRONG_USAGE
    assert option[0] in capsys.readouterr().err
