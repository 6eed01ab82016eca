"""What the command line refuses, keeps and goes on with. Measuring itself is played here: ``test_measure`` does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cli
from benchmarks.measure import plan, run
from benchmarks.measure.rounds import Group, Reference
from benchmarks.results.schema import Case, Results, Skipped, read_results
from tests.benchmarks.samples import CASE, CEILINGS, MACHINE

Main = Callable[..., int]


class Play:
    """Measures nothing; counts what it is asked for, and can be interrupted."""

    def __init__(self) -> None:
        self.groups: list[str] = []
        self.interrupt_at: int | None = None
        self.failure = ""

    def __call__(self, group: Group, *_: Any) -> tuple[list[Case], list[Skipped]]:
        if len(self.groups) == self.interrupt_at:
            raise KeyboardInterrupt
        self.groups.append(str(group))
        cases = [
            replace(
                CASE,
                artifact=group.subject.manifest.name,
                tower=group.subject.tower,
                stage=group.stage,
                items=group.items,
                tokens=group.tokens,
                contender=way.contender,
                variant=way.variant,
            )
            for way in group.ways
        ]
        return cases, [Skipped(name=f"{group}: torch eager on cpu", reason=self.failure)] * bool(self.failure)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    playing = Play()
    monkeypatch.setattr(run, "measure_group", playing)
    monkeypatch.setattr(run, "make_reference", lambda *_: (Reference(name="torch", vectors=np.eye(2)), []))
    monkeypatch.setattr(cli, "measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr(cli, "this_machine", lambda name, threads: replace(MACHINE, name=name or MACHINE.name))
    return playing


@pytest.fixture
def measure(play: Play, exported_text: Path, tmp_path: Path) -> Main:
    def call(*words: str) -> int:
        return cli.main([str(exported_text), "-o", str(tmp_path / "r"), "--contenders", "runtime", *words])

    return call


def read(tmp_path: Path) -> Results:
    return read_results(tmp_path / "r")


def test_a_report_is_written_with_what_made_it(measure: Main, tmp_path: Path) -> None:
    assert measure("--batch-sizes", "1", "2", "--tokens", "8") == 0
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["report.html", "report.md", "results.json"]
    results = read(tmp_path)
    assert results.complete
    assert results.ceilings == CEILINGS
    assert results.command.endswith("--contenders runtime --batch-sizes 1 2 --tokens 8")
    assert [(case.stage, case.items, case.tokens) for case in results.cases] == [
        ("graph", 1, 8),
        ("graph", 2, 8),
        ("end_to_end", 1, None),
        ("end_to_end", 2, None),
    ]


def test_formats_are_those_that_were_asked_for(measure: Main, tmp_path: Path) -> None:
    assert measure("--format", "md", "--batch-sizes", "1") == 0
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["report.md", "results.json"]


def test_what_was_measured_outlives_an_interruption(
    measure: Main, play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play.interrupt_at = 2
    assert measure("--batch-sizes", "1", "2") == 130
    assert "2 of 4 groups are left" in capsys.readouterr().err
    half = read(tmp_path)
    assert (len(half.cases), half.complete) == (2, False)
    assert (tmp_path / "r" / "report.html").exists()
    play.interrupt_at = None
    assert measure("--batch-sizes", "1", "2", "--resume") == 0
    assert len(play.groups) == len(set(play.groups)) == 4
    assert [line.strip() for line in capsys.readouterr().err.splitlines()][-2:] == play.groups[2:]  # a log has no bar
    whole = read(tmp_path)
    assert whole.complete
    assert whole.cases[:2] == half.cases


def test_what_the_host_disturbed_is_replaced_when_it_is_measured_again(
    measure: Main, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setitem(globals(), "CASE", replace(CASE, stolen=(0.3,) * 10))
        play.failure = "out of memory"
        assert measure("--batch-sizes", "1", "2", "--stages", "graph") == 0
    play.failure = ""
    assert all(case.disturbed for case in read(tmp_path).cases)
    assert measure("--batch-sizes", "2", "--stages", "graph", "--resume", "--redo-disturbed") == 0
    assert [(case.items, case.disturbed) for case in read(tmp_path).cases] == [(1, True), (2, False)]
    left = [each.name for each in read(tmp_path).skipped if each.reason == "out of memory"]
    assert left == [f"{play.groups[0]}: torch eager on cpu"]


def test_results_are_not_overwritten_unasked(
    measure: Main, play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--batch-sizes", "1") == 0
    before = (tmp_path / "r" / "results.json").read_bytes()
    assert measure("--batch-sizes", "2") == 1
    assert "--resume goes on with them, --force replaces them" in capsys.readouterr().err
    assert (tmp_path / "r" / "results.json").read_bytes() == before
    assert measure("--batch-sizes", "2", "--force") == 0
    assert {case.items for case in read(tmp_path).cases} == {2}


def test_another_machine_does_not_go_on(
    measure: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--batch-sizes", "1") == 0
    monkeypatch.setattr(cli, "this_machine", lambda *_: replace(MACHINE, cpu="another", load_average=(9.0,)))
    assert measure("--batch-sizes", "1", "--resume") == 1
    assert "another machine (cpu differ)" in capsys.readouterr().err


def test_a_load_that_differs_does_not_matter(measure: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure("--batch-sizes", "1") == 0
    monkeypatch.setattr(cli, "this_machine", lambda *_: replace(MACHINE, load_average=(9.0,)))
    assert measure("--batch-sizes", "1", "--resume") == 0


def test_an_artifact_that_changed_is_not_gone_on_with(
    measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--batch-sizes", "1") == 0
    path = tmp_path / "r" / "results.json"
    document = json.loads(path.read_text())
    document["artifacts"][0]["seal"] = "1" * 64
    path.write_text(json.dumps(document))
    assert measure("--batch-sizes", "1", "--resume") == 1
    assert "has changed since it was measured" in capsys.readouterr().err


def test_an_artifact_that_fails_verify_is_refused(play: Play, artifact: Path, tmp_path: Path) -> None:
    graph = artifact / "image.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert cli.main([str(artifact), "-o", str(tmp_path / "r")]) == 1
    assert not play.groups
    assert not (tmp_path / "r").exists()


def test_a_provider_that_is_not_active_is_refused_and_not_measured_as_another(
    measure: Main, play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--providers", "cuda") == 1
    assert "cuda" in capsys.readouterr().err
    assert not play.groups


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--contenders", "nobody"], "there is no contender nobody"),
        (["--batch-sizes", "0"], "1 or more"),
        (["--tokens", "2"], "3 or more"),
        (["--threads", "0"], "--threads"),
        (["--rounds", "1"], "--rounds must be 3"),
        (["--seconds", "nan"], "--seconds"),
        (["--patience", "-1"], "--patience"),
        (["--confidence", "1"], "--confidence"),
        (["--weights", "other=x"], "--weights names other"),
        (["--weights", "a=1", "b"], "NAME=VALUE"),
        (["--items", "poem=x"], "--items names poem"),
        (["--resume", "--force"], "give one of them"),
        (["--redo-disturbed"], "give --resume too"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_right_is_wrong_usage(
    words: list[str], message: str, measure: Main, play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(*words) == 2
    assert message in capsys.readouterr().err
    assert not play.groups


def test_a_file_in_place_of_the_folder_is_refused(
    measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").write_text("mine")
    assert measure() == 1
    assert "is a file; name a folder" in capsys.readouterr().err
    assert (tmp_path / "r").read_text() == "mine"


def test_two_artifacts_of_one_name_are_refused(
    play: Play, exported_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(exported_text), str(exported_text), "-o", str(tmp_path / "r")]) == 2
    assert "two artifacts are called toy" in capsys.readouterr().err


def test_prices_are_read_before_anything_is_measured(
    measure: Main, play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--prices", str(tmp_path / "none.toml")) == 1
    assert "docs/prices.example.toml" in capsys.readouterr().err
    assert not play.groups


def test_lengths_that_a_tower_does_not_take_are_cut(measure: Main, tmp_path: Path) -> None:
    assert measure("--tokens", "8", "100", "4000", "--batch-sizes", "1", "--stages", "graph") == 0
    assert [case.tokens for case in read(tmp_path).cases] == [8, 64]


def test_each_artifact_may_have_weights_of_its_own(exported_text: Path) -> None:
    choices = plan.Choices(weights={"toy": "somewhere"}, contenders=("runtime",))
    (subject,) = plan.make_plan([exported_text], choices).subjects
    assert subject.weights == "somewhere"
    (subject,) = plan.make_plan([exported_text], plan.Choices(contenders=("runtime",))).subjects
    assert subject.weights == "random:0"


@pytest.mark.parametrize("word", ["choose", "compare"])
def test_the_other_verbs_have_a_help_of_their_own(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([word, "--help"])
    assert f"python -m benchmarks {word}" in capsys.readouterr().out
