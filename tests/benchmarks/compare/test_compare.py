"""Test that a planted slowdown is found and that noise gets no verdict. All times come from seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cli
from benchmarks.compare.verdicts import CONFIDENCE, Comparison, compare
from benchmarks.results.schema import Case, Gpu, OwnItems, PythonEnvironment, Results, ResultsError, Skipped
from runtime.atomic_write import write_text
from tests.benchmarks.samples import ARTIFACT, CASE, MACHINE, PARITY, PLAN, RESULTS, many_cases

H200 = Gpu(name="H200", memory_bytes=150_000_000_000, driver="570")
_CASES = tuple(
    replace(case, artifact=name) for name in ("toy-text", "other") for case in many_cases() if case.items != 128
)
_OTHER = replace(ARTIFACT, name="other", seal="1" * 64)
_FEW = _CASES[:9]
_SLOWED = 7


def main(words: Sequence[str]) -> int:
    return cli.main(["compare", *words])


def measured(
    seed: int, cases: Sequence[Case] = _FEW, *, pace: float = 1.0, factors: Mapping[int, float] | None = None
) -> Results:
    """Return results with noise, a drifting machine speed and single slow calls.

    Args:
        seed: Seed of all noise.
        cases: The cases; new times vary around their median.
        pace: Factor on all times of the run.
        factors: Extra factors on the times of single cases, by position.
    """
    generator = np.random.default_rng(seed)
    speeds = pace * np.exp(np.cumsum(0.03 * generator.standard_normal(12)))
    yardstick = 0.05 * speeds * np.exp(0.015 * generator.standard_normal(12))
    timed = []
    for place, case in enumerate(cases):
        layout, noise = np.exp(0.01 * generator.standard_normal()), 0.03 * generator.standard_normal((12, 1))
        times = np.median(case.rounds) * (factors or {}).get(place, 1.0) * layout * speeds[:, None] * np.exp(noise)
        times = times * np.exp(0.02 * generator.standard_normal((12, 4)))
        times[generator.random((12, 4)) < 0.03] *= 2.5
        timed.append(replace(case, rounds=tuple(map(tuple, times.tolist())), yardstick=tuple(yardstick.tolist())))
    return replace(RESULTS, artifacts=(ARTIFACT, _OTHER), cases=tuple(timed))


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(old: Results, new: Results) -> list[str]:
        paths = [tmp_path / "old.json", tmp_path / "new.json"]
        for path, results in zip(paths, (old, new), strict=True):
            write_text(path, results.to_json())
        return [str(path) for path in paths]

    return write


def slower(comparison: Comparison) -> list[Case]:
    return [change.new for change in comparison.changes if change.verdict == "slower"]


@pytest.mark.parametrize("pace", [0.75, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_slowdown_is_found_and_nothing_else(seed: int, pace: float, files: Any, capsys: Any) -> None:
    arguments = files(measured(seed, _CASES), measured(seed + 100, _CASES, pace=pace, factors={_SLOWED: 1.2}))
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.endswith("  slower"))
    assert _CASES[_SLOWED].artifact in line
    assert _CASES[_SLOWED].label in line
    assert lines.index(line) == [line.startswith("---") for line in lines].index(True) + 1, "the worst comes first"
    assert "1 slower, 0 faster" in lines[-1]


@pytest.mark.parametrize("pace", [0.75, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(3))
def test_two_runs_of_the_same_code_pass(seed: int, pace: float, files: Any, capsys: Any) -> None:
    assert main(files(measured(seed, _CASES), measured(seed + 100, _CASES, pace=pace))) == 0
    assert f"0 slower, 0 faster, {len(_CASES)} not distinguishable" in capsys.readouterr().out


def test_a_faster_case_is_faster_and_no_failure(files: Any, capsys: Any) -> None:
    assert main(files(measured(0), measured(100, factors={_SLOWED: 0.8}))) == 0
    assert "0 slower, 1 faster" in capsys.readouterr().out


def test_a_slowdown_of_all_cases_is_found_on_a_steady_machine() -> None:
    everything = dict.fromkeys(range(len(_FEW)), 1.25)
    comparison = compare(measured(0), measured(100, factors=everything), same_machine=True)
    assert len(slower(comparison)) > len(_FEW) / 2


def test_a_slower_yardstick_alone_makes_no_case_faster() -> None:
    new = measured(100)
    off = tuple(replace(case, yardstick=tuple(1.3 * y for y in case.yardstick)) for case in new.cases)
    comparison = compare(measured(0), replace(new, cases=off), same_machine=True)
    assert {change.verdict for change in comparison.changes} == {"not distinguishable"}


def test_an_unsteady_machine_widens_the_interval_and_gives_no_verdict() -> None:
    swung = replace(CASE, rounds=tuple((0.01 * pace,) * 4 for pace in (1.0, 2.0) * 6), yardstick=(0.05,) * 12)
    calm = replace(swung, rounds=((0.01,) * 4,) * 12)
    (change,) = compare(*(replace(RESULTS, cases=(case,)) for case in (calm, swung)), same_machine=True).changes
    assert change.low == pytest.approx(1.0)
    assert change.high == pytest.approx(2.0)
    assert change.verdict == "not distinguishable"


def test_a_noisy_yardstick_hides_no_slowdown() -> None:
    old, new = measured(0), measured(100, factors={_SLOWED: 1.2})
    noise = np.random.default_rng(1).choice([1.0, 2.0], 12)
    noisy = tuple(replace(case, yardstick=tuple(0.05 * noise)) for case in new.cases)
    comparison = compare(old, replace(new, cases=noisy), same_machine=True)
    assert [case.key for case in slower(comparison)] == [_FEW[_SLOWED].key]


def test_many_cases_widen_every_interval() -> None:
    old, new = measured(0), measured(100)
    alone = [replace(results, cases=results.cases[:1]) for results in (old, new)]
    (one,) = compare(*alone, same_machine=False).changes
    (same,) = (c for c in compare(old, new, same_machine=False).changes if c.new.key == one.new.key)
    assert same.low < one.low < one.high < same.high
    assert CONFIDENCE == 0.95


def test_a_file_equals_itself(files: Any, capsys: Any) -> None:
    two_lengths = (*_FEW, replace(_FEW[0], tokens=512))
    path, _ = files(measured(0, two_lengths), measured(0))
    assert main([path, path]) == 0
    assert capsys.readouterr().out.count("1.000 (") == len(two_lengths)


def test_few_rounds_give_no_verdict() -> None:
    old = replace(CASE, rounds=CASE.rounds[:3], yardstick=CASE.yardstick[:3])
    new = replace(old, rounds=tuple(tuple(2 * second for second in turn) for turn in old.rounds))
    (change,) = compare(*(replace(RESULTS, cases=(c,)) for c in (old, new)), same_machine=True).changes
    assert change.ratio == pytest.approx(2)
    assert change.verdict == "not distinguishable"


def test_without_a_possible_verdict_the_comparison_fails(files: Any, capsys: Any) -> None:
    old, new = (
        replace(results, cases=tuple(replace(c, rounds=c.rounds[:4], yardstick=c.yardstick[:4]) for c in results.cases))
        for results in (measured(0), measured(100))
    )
    assert main(files(old, new)) == 1
    assert "NO VERDICT IS POSSIBLE, too few rounds in 9 of 9 cases" in capsys.readouterr().out
    assert compare(old, new, same_machine=True).rounds_needed == 6
    mixed = replace(new, cases=(*measured(100).cases[:1], *new.cases[1:]))
    assert main(files(replace(old, cases=(*measured(0).cases[:1], *old.cases[1:])), mixed)) == 0
    assert "Too few rounds in 8 of 9 cases: measure both results with --rounds 6" in capsys.readouterr().out


@pytest.mark.parametrize(("cases", "rounds"), [(1, 4), (85, 7), (86, 8), (321, 8), (322, 9)])
def test_more_cases_need_more_rounds(cases: int, rounds: int) -> None:
    changes = compare(RESULTS, RESULTS, same_machine=True).changes * cases
    assert Comparison(changes=changes, gone=(), added=(), failed=()).rounds_needed == rounds


@pytest.mark.parametrize(("text", "code"), [("30%", 0), ("0.3", 0), ("10%", 1), ("0.1", 1), ("0", 1)])
def test_fail_above_sets_the_exit_code(text: str, code: int, files: Any) -> None:
    assert main([*files(measured(0), measured(100, factors={_SLOWED: 1.2})), "--fail-above", text]) == code


@pytest.mark.parametrize("text", ["ten", "-1%", "10", "nan", "inf%", "%", ""])
def test_invalid_shares_are_refused(text: str, files: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*files(measured(0), measured(0)), f"--fail-above={text}"])
    assert caught.value.code == 2
    assert "a share, written as 10% or 0.1" in capsys.readouterr().err


def test_differences_below_the_resolution_are_ignored(files: Any, capsys: Any) -> None:
    arguments = files(measured(0), measured(100, factors={_SLOWED: 1.3}))
    assert main([*arguments, "--resolution", "50%"]) == 0
    assert "0 slower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "another"}, "name toy-machine -> another"),
        ({"cores_allowed": 1}, "cores_allowed 2 -> 1"),
        ({"cpu_flags": ("avx2", "amx_int8")}, "cpu_flags -avx512_vnni +amx_int8"),
        ({"gpus": (H200,)}, "gpus none -> H200 with 140 GiB"),
        ({"memory_bytes": 23 * 2**30}, "memory 24 GiB -> 23 GiB"),
    ],
)
def test_another_machine_is_named_first_and_raw_times_are_compared(
    change: dict[str, Any], words: str, files: Any, capsys: Any
) -> None:
    new = replace(measured(100, pace=2.0), machine=replace(MACHINE, **change))
    assert main(files(measured(0), new)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("DIFFERENT MACHINES, raw times are compared: ")
    assert words in lines[0]
    assert f"{len(_FEW)} slower" in lines[-1]


def test_other_software_or_load_is_not_another_machine(files: Any, capsys: Any) -> None:
    old = replace(MACHINE, gpus=(H200,))
    new = replace(
        old,
        packages=MACHINE.packages | {"onnxruntime": "1.32.0"},
        load_average=(9.0, 9.0, 9.0),
        memory_bytes=MACHINE.memory_bytes - 5 * 2**20,  # of another kernel
        gpus=(replace(H200, driver="580"),),
    )
    assert main(files(*(replace(measured(n), machine=each) for n, each in ((0, old), (100, new))))) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "Same machine, toy-machine, with different software: onnxruntime 1.31.1 -> 1.32.0; drivers 570 -> 580."
    )


def test_the_drift_of_the_machine_is_printed(files: Any, capsys: Any) -> None:
    main(files(measured(0), measured(100, pace=1.5)))
    assert re.search(
        r"The machine itself was 1\.\d\d times slower to 1\.\d\d times slower in the new run", capsys.readouterr().out
    )


def test_other_artifacts_are_refused_with_advice(files: Any, capsys: Any) -> None:
    new = replace(measured(100), artifacts=(replace(ARTIFACT, seal="2" * 64), _OTHER))
    assert main(files(measured(0), new)) == 1
    err = capsys.readouterr().err
    assert "toy-text is not the same artifact" in err
    assert "both in one run" in err


def test_other_items_are_refused_with_advice(files: Any, capsys: Any) -> None:
    mine = replace(PLAN, items={"text": OwnItems(source="mine.txt", sha256="a" * 64)})
    assert main(files(measured(0), replace(measured(100), plan=mine))) == 1
    wanted = "those of the old results are built-in, those of the new ones are mine.txt (hash aaaaaaaaaaaa)"
    assert wanted in capsys.readouterr().err
    other_name = replace(PLAN, items={"text": OwnItems(source="other.txt", sha256="a" * 64)})
    assert main(files(replace(measured(0), plan=mine), replace(measured(100), plan=other_name))) == 0


def test_texts_of_different_versions_of_python_are_named(files: Any, capsys: Any) -> None:
    other = replace(measured(100), machine=replace(MACHINE, python="3.12.1"))
    assert main(files(measured(0), other)) == 0
    assert "docstrings of Python, and those of Python 3.11.7 and 3.12.1 differ" in capsys.readouterr().out


def test_results_that_do_not_record_their_items_are_named(files: Any, capsys: Any) -> None:
    assert main(files(replace(measured(0), plan=None), measured(100))) == 0
    assert "The old results are from an older version" in capsys.readouterr().out


def test_other_versions_in_another_environment_are_named(files: Any, capsys: Any) -> None:
    old, new = (
        replace(measured(seed), environments={"openvino": PythonEnvironment(python="3.12", packages={"openvino": v})})
        for seed, v in ((0, "1"), (100, "2"))
    )
    assert main(files(old, new)) == 0
    assert "with different software: openvino of openvino 1 -> 2." in capsys.readouterr().out


def test_cases_in_one_of_the_results_are_listed(files: Any, capsys: Any) -> None:
    old, new = measured(0), measured(100)
    assert main(files(replace(old, cases=old.cases[:-1]), replace(new, cases=new.cases[1:]))) == 0
    out = capsys.readouterr().out
    assert "Only in the old results: toy-text text, runtime fp32 on cpu, graph, batch size 1 with 64 tokens." in out
    assert "Only in the new results: toy-text text, torch eager on cpu, graph, batch size 32 with 64 tokens." in out


def test_many_cases_in_one_of_the_results_are_counted(files: Any, capsys: Any) -> None:
    assert main(files(measured(0, _CASES), measured(100, _FEW))) == 0
    assert f"Only in the old results: {len(_CASES) - len(_FEW)} cases, of toy-text, other." in capsys.readouterr().out


def test_the_detectable_slowdown_is_printed_and_true(files: Any, capsys: Any) -> None:
    old, new = measured(0), measured(100)
    main(files(old, new))
    percent = re.search(
        r"a slowdown of (\d+)% would have been detected in half .* one of (\d+)% in all", capsys.readouterr().out
    )
    assert percent
    half, every = (1 + int(group) / 100 for group in percent.groups())
    assert 1.05 < half < every
    found = [
        len(slower(compare(old, measured(100, factors={place: factor}), same_machine=True)))
        for factor in (half, every)
        for place in range(len(_FEW))
    ]
    assert sum(found[: len(_FEW)]) > len(_FEW) / 2
    assert found[len(_FEW) :] == [1] * len(_FEW)


def test_results_without_a_common_case_are_refused(files: Any, capsys: Any) -> None:
    old, new = measured(0), measured(100)
    assert main(files(replace(old, cases=old.cases[:2]), replace(new, cases=new.cases[2:]))) == 1
    assert "no case in common" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["old", "new"])
def test_incomplete_results_are_named(which: str, files: Any, capsys: Any) -> None:
    sides = {"old": measured(0), "new": measured(100)}
    sides[which] = replace(sides[which], complete=False)
    main(files(*sides.values()))
    assert f"The {which} results are incomplete" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": ()},
        {"rounds": ((),) * 12},
        {"rounds": ((0.0,),) * 12},
        {"rounds": ((float("nan"),),) * 12},
        {"yardstick": (0.05,)},
        {"yardstick": (-0.05,) * 12},
    ],
    ids=str,
)
def test_invalid_times_are_refused(change: dict[str, Any]) -> None:
    new = measured(100)
    broken = replace(new, cases=(replace(new.cases[0], **change), *new.cases[1:]))
    with pytest.raises(ResultsError, match="measure again"):
        compare(measured(0), broken, same_machine=True)


@pytest.mark.parametrize(("cosine", "told"), [(0.99712, False), (0.99705, False), (0.9, True), (1.0, False)])
def test_worse_parity_is_a_failure(cosine: float, told: bool, files: Any, capsys: Any) -> None:
    case = replace(CASE, parity=replace(PARITY, min_cosine=cosine))
    assert main(files(RESULTS, replace(RESULTS, cases=(case,)))) == told
    assert ("PARITY IS WORSE for toy-text" in capsys.readouterr().out) is told


def test_parity_with_torch_in_another_precision_is_compared(files: Any, capsys: Any) -> None:
    case = replace(CASE, parity=replace(PARITY, min_cosine=0.5, reference="torch in float64, each item alone"))
    assert main(files(RESULTS, replace(RESULTS, cases=(case,)))) == 1
    assert "PARITY IS WORSE for toy-text" in capsys.readouterr().out


def test_parity_that_is_no_longer_measured_is_a_failure(files: Any, capsys: Any) -> None:
    case = replace(CASE, parity=replace(PARITY, min_cosine=1.0, reference="the graph in fp32 on cpu, each item alone"))
    alone = replace(RESULTS, cases=(case,))
    assert [main(files(RESULTS, alone)), main(files(alone, RESULTS)), main(files(alone, alone))] == [1, 0, 0]
    assert "PARITY IS UNKNOWN in 1 of 1 cases, of toy-text" in capsys.readouterr().out


def test_a_contender_that_fails_now_is_a_failure(files: Any, capsys: Any) -> None:
    old, new = measured(0), measured(100)
    failed = Skipped(name="toy-text, text, graph, 1 x 64: runtime fp32 on cpu", reason="it ended with signal 9")
    assert main(files(old, replace(new, cases=new.cases[1:], skipped=(failed,)))) == 1
    case = "toy-text text, runtime fp32 on cpu, graph, batch size 1 with 64 tokens"
    assert f"FAILED in the new run: {case}: it ended with signal 9." in capsys.readouterr().out


def test_slower_long_texts_are_found_though_the_median_text_is_not_slower(files: Any, capsys: Any) -> None:
    old, new = (replace(CASE, rounds=((0.001, 0.001, longest),) * 10) for longest in (0.02, 0.03))
    assert main(files(*(replace(RESULTS, cases=(case,)) for case in (old, new)))) == 1
    assert "1 slower" in capsys.readouterr().out


def test_json_holds_the_same_verdicts(files: Any, capsys: Any) -> None:
    arguments = files(measured(0), measured(100, factors={_SLOWED: 1.2}))
    assert main([*arguments, "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["failed"] is True
    assert [change["case"] for change in document["changes"] if change["regression"]] == [list(_CASES[_SLOWED].key)]


def test_markdown_cells_are_escaped(files: Any, capsys: Any) -> None:
    case = replace(CASE, contender="a|b")
    main([*files(*[replace(RESULTS, cases=(case,))] * 2), "--format", "md"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert len(lines) == 3


def test_missing_results_are_an_error(tmp_path: Path, capsys: Any) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_results_of_another_schema_are_refused(files: Any, capsys: Any) -> None:
    assert main(files(RESULTS, replace(RESULTS, schema_version=99))) == 1
    assert "upgrade" in capsys.readouterr().err
