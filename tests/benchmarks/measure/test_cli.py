"""The command line checks its options, keeps results, and resumes a run. A fake replaces the measurements."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contenders.protocol import Target
from benchmarks.measure import cli, run
from benchmarks.measure.group import CaseGroup, Reference
from benchmarks.results.schema import Case, Results, Skipped, read_results
from exporters.artifact_writer import write_manifest
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError
from tests.benchmarks.exit_codes import run_command
from tests.benchmarks.samples import CASE, CEILINGS, MACHINE

Main = Callable[..., int]


class FakeMeasurement:
    """Fake of ``measure_group`` that records the groups, and can be interrupted."""

    def __init__(self) -> None:
        self.groups: list[str] = []
        self.interrupt_at: int | None = None
        self.failure = ""

    def __call__(self, group: CaseGroup, *_: Any) -> tuple[list[Case], list[Skipped]]:
        if len(self.groups) == self.interrupt_at:
            raise KeyboardInterrupt
        self.groups.append(str(group))
        cases = [
            replace(
                CASE,
                artifact=group.target.manifest.name,
                tower=group.target.tower,
                stage=group.stage,
                items=group.items,
                tokens=group.tokens,
                contender=setup.contender,
                variant=setup.variant,
            )
            for setup in group.setups
        ]
        return cases, [Skipped(name=f"{group}: torch eager on cpu", reason=self.failure)] * bool(self.failure)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMeasurement:
    measurement = FakeMeasurement()
    monkeypatch.setattr(run, "measure_group", measurement)
    monkeypatch.setattr(run, "make_reference", lambda *_: (Reference(name="torch", vectors=np.eye(2)), []))
    monkeypatch.setattr(cli, "measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr(cli, "this_machine", lambda name, threads: replace(MACHINE, name=name or MACHINE.name))
    return measurement


@pytest.fixture
def measure(fake: FakeMeasurement, exported_text: Path, tmp_path: Path) -> Main:
    def call(*words: str) -> int:
        return run_command(str(exported_text), "-o", str(tmp_path / "r"), "--contenders", "runtime", *words)

    return call


def read(tmp_path: Path) -> Results:
    return read_results(tmp_path / "r")


@pytest.mark.process
def test_a_report_is_written_with_its_command(measure: Main, tmp_path: Path) -> None:
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


@pytest.mark.process
def test_ceilings_that_were_left_out_are_measured_by_resume(measure: Main, tmp_path: Path) -> None:
    words = ["--batch-sizes", "1", "--stages", "graph"]
    assert measure(*words, "--no-ceilings") == 0
    assert read(tmp_path).ceilings is None
    assert measure(*words, "--resume") == 0
    assert read(tmp_path).ceilings == CEILINGS


@pytest.mark.process
def test_only_the_requested_formats_are_written(measure: Main, tmp_path: Path) -> None:
    assert measure("--format", "md", "--batch-sizes", "1") == 0
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["report.md", "results.json"]


@pytest.mark.process
def test_an_interrupted_run_keeps_its_results(
    measure: Main, fake: FakeMeasurement, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.interrupt_at = 2
    assert measure("--batch-sizes", "1", "2") == 130
    assert "2 of 4 groups remain" in capsys.readouterr().err
    half = read(tmp_path)
    assert (len(half.cases), half.complete) == (2, False)
    assert (tmp_path / "r" / "report.html").exists()
    fake.interrupt_at = None
    assert measure("--batch-sizes", "1", "2", "--resume") == 0
    assert len(fake.groups) == len(set(fake.groups)) == 4
    assert [line.strip() for line in capsys.readouterr().err.splitlines()][-2:] == fake.groups[
        2:
    ]  # a log has no progress bar
    whole = read(tmp_path)
    assert whole.complete
    assert whole.cases[:2] == half.cases


@pytest.mark.process
def test_a_run_that_is_interrupted_before_its_first_case_keeps_the_results_that_it_was_to_replace(
    measure: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--batch-sizes", "1") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    failed: tuple[list[Case], list[Skipped]] = ([], [Skipped(name="torch", reason="out of memory")])
    groups = iter([failed])

    def measure_group(*_: Any) -> tuple[list[Case], list[Skipped]]:
        for group in groups:
            return group
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure_group", measure_group)
    assert measure("--batch-sizes", "1", "--force") == 130
    assert "no case was measured, and nothing was written; repeat the command" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


@pytest.mark.process
def test_disturbed_cases_are_measured_again_and_replaced(
    measure: Main, fake: FakeMeasurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setitem(globals(), "CASE", replace(CASE, stolen=(0.3,) * 10))
        fake.failure = "out of memory"
        assert measure("--batch-sizes", "1", "2", "--stages", "graph") == 0
    fake.failure = ""
    assert all(case.disturbed for case in read(tmp_path).cases)
    assert measure("--batch-sizes", "1", "2", "--stages", "graph", "--resume", "--redo-disturbed") == 0
    assert [(case.items, case.disturbed) for case in read(tmp_path).cases] == [(1, False), (2, False)]
    assert not [each for each in read(tmp_path).skipped if each.reason == "out of memory"]
    assert len(fake.groups) == 4


@pytest.mark.process
def test_existing_results_are_not_overwritten(
    measure: Main, fake: FakeMeasurement, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--batch-sizes", "1") == 0
    before = (tmp_path / "r" / "results.json").read_bytes()
    assert measure("--batch-sizes", "2") == 1
    assert "continue them with --resume or replace them with --force" in capsys.readouterr().err
    assert (tmp_path / "r" / "results.json").read_bytes() == before
    assert measure("--batch-sizes", "2", "--force") == 0
    assert {case.items for case in read(tmp_path).cases} == {2}


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--contenders", "runtime", "torch"], "--contenders"),
        (["--contenders", "runtime:fp32"], "--contenders"),
        (["--batch-sizes", "1", "2"], "--batch-sizes"),
        (["--tokens", "8"], "--tokens"),
        (["--stages", "end_to_end"], "--stages"),
        (["--weights", "toy=folder"], "--weights"),
        (["--items", "text=mine.txt"], "--items"),
        (["--rounds", "30"], "--rounds"),
        (["--seconds", "9"], "--seconds"),
        (["--confidence", "0.9"], "--confidence"),
        (["--half-width", "0.2"], "--half-width"),
        (["--machine", "other"], "--machine"),
        (["--python", f"optimum={sys.executable}"], "--python"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_other_options_cannot_resume(
    words: list[str],
    option: str,
    measure: Main,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("\n".join(f"text {number}" for number in range(16)))
    once = ["--batch-sizes", "1", "--stages", "graph"]
    assert measure(*once) == 0
    before = (tmp_path / "r" / "results.json").read_bytes()
    assert measure(*once, *words, "--resume") == 1
    assert f"with other options (different: {option}); repeat those of `python -m benchmarks" in capsys.readouterr().err
    assert (tmp_path / "r" / "results.json").read_bytes() == before


@pytest.mark.process
def test_other_items_in_the_same_file_cannot_resume(
    measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.txt"
    words = ["--batch-sizes", "1", "--stages", "graph", "--items", f"text={mine}"]
    mine.write_text("\n".join(f"text {number}" for number in range(16)))
    assert measure(*words) == 0
    plan = read(tmp_path).plan
    assert plan is not None
    assert plan.items["text"].source == "mine.txt"
    assert measure(*words, "--resume") == 0
    mine.write_text("\n".join(f"words {number}" for number in range(16)))
    assert measure(*words, "--resume") == 1
    assert "different: --items" in capsys.readouterr().err


@pytest.mark.process
def test_results_of_an_older_version_cannot_resume(
    measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--batch-sizes", "1") == 0
    path = tmp_path / "r" / "results.json"
    document = json.loads(path.read_text()) | {"schema_version": 2}
    path.write_text(json.dumps({key: value for key, value in document.items() if key not in ("plan", "environments")}))
    assert measure("--batch-sizes", "1", "--resume") == 1
    assert "from an older version, without their options" in capsys.readouterr().err


@pytest.mark.process
def test_an_environment_with_other_versions_cannot_resume(
    measure: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--batch-sizes", "1", "--stages", "graph", "--python", f"openvino={sys.executable}"]
    assert measure(*words, "--providers", "cpu") == 0
    other = replace(read(tmp_path).environments["openvino"], python="3.1")
    monkeypatch.setattr(cli, "survey", lambda _: other)
    assert measure(*words, "--providers", "cpu", "--resume") == 1
    assert f"or from other software (Python of openvino {platform.python_version()} -> 3.1)" in capsys.readouterr().err


@pytest.mark.process
def test_an_option_that_is_given_twice_counts_once(measure: Main, fake: FakeMeasurement, tmp_path: Path) -> None:
    twice = ["--providers", "cpu", "cpu", "--tokens", "8", "8", "--batch-sizes", "1", "1", "--stages", "graph", "graph"]
    assert measure(*twice, "--contenders", "runtime", "runtime") == 0
    assert [case.key for case in read(tmp_path).cases] == [("toy", "text", "runtime", "fp32", "cpu", "graph", 1, 8)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({}, ""),
        ({"cpu": "another"}, "(cpu A CPU of 2 cores -> another)"),
        ({"packages": MACHINE.packages | {"torch": "2.15"}}, "(torch 2.14.1 -> 2.15)"),
    ],
    ids=["load average", "CPU", "upgrade"],
)
def test_another_machine_cannot_resume(
    change: dict[str, Any],
    difference: str,
    measure: Main,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert measure("--batch-sizes", "1") == 0
    changed = replace(MACHINE, load_average=(9.0,), **change)
    monkeypatch.setattr(cli, "this_machine", lambda *_: changed)
    assert measure("--batch-sizes", "1", "--resume") == bool(difference)
    assert difference in capsys.readouterr().err


@pytest.mark.process
def test_a_changed_artifact_cannot_resume(measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("--batch-sizes", "1") == 0
    path = tmp_path / "r" / "results.json"
    document = json.loads(path.read_text())
    document["artifacts"][0]["seal"] = "1" * 64
    path.write_text(json.dumps(document))
    assert measure("--batch-sizes", "1", "--resume") == 1
    assert "changed since the existing results" in capsys.readouterr().err


def test_an_artifact_that_fails_verification_is_an_error(fake: FakeMeasurement, artifact: Path, tmp_path: Path) -> None:
    graph = artifact / "image.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert run_command(str(artifact), "-o", str(tmp_path / "r")) == 1
    assert not fake.groups
    assert not (tmp_path / "r").exists()


@pytest.mark.process
def test_an_inactive_provider_is_an_error(
    measure: Main, fake: FakeMeasurement, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--providers", "cuda") == 1
    assert "cuda" in capsys.readouterr().err
    assert not fake.groups


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--contenders", "nobody"], "there is no contender nobody"),
        (["--contenders", "runtime:int9"], "runtime has no variant 'int9'; choose from fp32, optimized"),
        (["--contenders", "torch:egaer"], "torch has no variant 'egaer'; choose from eager"),
        (["--python", "optimus=python"], "--python names optimus; name a contender or provider: sentence-transformers"),
        (["--items", "image=x"], "--items names image, but the artifacts embed only text"),
        (["--batch-sizes", "0"], "1 or more"),
        (["--tokens", "2"], "3 or more"),
        (["--threads", "0"], "--threads"),
        (["--rounds", "1"], "from 3 up"),
        (["--seconds", "inf"], "--seconds"),
        (["--patience", "inf"], "--patience"),
        (["--confidence", "1"], "--confidence"),
        (["--half-width", "0"], "--half-width"),
        (["--weights", "other=x"], "--weights names other"),
        (["--weights", "other=x", "--weights", "toy=y"], "--weights names other"),
        (["--weights", "a=1", "b"], "--weights b must have the form NAME=VALUE"),
        (["--python", "openvino=a", "--python", "openvino=b"], "--python has two values for openvino: a and b"),
        (["--items", "poem=x"], "--items names poem"),
        (["--resume", "--force"], "give only one of them"),
        (["--redo-disturbed"], "give --resume too"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_option_is_wrong_usage(
    words: list[str], message: str, measure: Main, fake: FakeMeasurement, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(*words) == 2
    assert message in capsys.readouterr().err
    assert not fake.groups


@pytest.mark.process
def test_a_file_as_the_output_folder_is_an_error(
    measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").write_text("mine")
    assert measure() == 1
    assert "choose another folder for the report" in capsys.readouterr().err
    assert (tmp_path / "r").read_text() == "mine"


def test_two_artifacts_of_one_name_are_an_error(
    fake: FakeMeasurement, exported_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(str(exported_text), str(exported_text), "-o", str(tmp_path / "r")) == 2
    assert "two artifacts have the name toy" in capsys.readouterr().err


@pytest.mark.process
def test_prices_are_read_before_anything_is_measured(
    measure: Main, fake: FakeMeasurement, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--prices", str(tmp_path / "none.toml")) == 1
    assert "docs/prices.example.toml" in capsys.readouterr().err
    assert not fake.groups


@pytest.mark.process
def test_lengths_are_limited_to_the_maximum_of_the_tower(measure: Main, tmp_path: Path) -> None:
    assert measure("--tokens", "8", "100", "4000", "--batch-sizes", "1", "--stages", "graph") == 0
    assert [case.tokens for case in read(tmp_path).cases] == [8, 64]
    reason = "its texts have at most 64 tokens; this length was measured instead"
    assert [(each.name, each.reason) for each in read(tmp_path).skipped] == [
        (f"toy, text: graph with {length} tokens", reason) for length in (100, 4000)
    ]


@pytest.mark.process
def test_a_named_variant_that_the_tower_lacks_is_recorded(measure: Main, tmp_path: Path) -> None:
    words = ["--batch-sizes", "1", "--stages", "graph", "--contenders", "runtime:fp32", "runtime:int8"]
    assert measure(*words) == 0
    assert "toy, text: runtime:int8" in {each.name for each in read(tmp_path).skipped}


@pytest.mark.process
def test_a_run_without_any_case_fails(measure: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("--contenders", "runtime:int8", "--batch-sizes", "1") == 1
    err = capsys.readouterr().err
    assert "no case was measured (toy, text: runtime:int8: this tower has no such case on this machine)" in err
    assert (tmp_path / "r" / "report.md").exists()


@pytest.mark.process
def test_wrong_weights_of_an_artifact_without_cases_can_be_mended(
    fake: FakeMeasurement, exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_reference(target: Target, *_: Any) -> tuple[Reference, list[Skipped]]:
        if target.weights == "wrong":
            raise UsageError("name the weights of the export")
        return Reference(name="torch", vectors=np.eye(2)), []

    monkeypatch.setattr(run, "make_reference", make_reference)
    other = Path(shutil.copytree(exported_text, tmp_path / "other"))
    manifest = read_manifest(other)
    (other / "manifest.json").unlink()
    write_manifest(other, replace(manifest, name="other"))
    words = [str(exported_text), str(other), "-o", str(tmp_path / "r"), "--contenders", "runtime", "--weights"]
    assert run_command(*words, "toy=right", "other=wrong", "--batch-sizes", "1") == 2
    assert {case.artifact for case in read(tmp_path).cases} == {"toy"}
    assert (tmp_path / "r" / "report.md").exists(), "an error keeps what was measured, too"
    assert run_command(*words, "toy=changed", "other=right", "--batch-sizes", "1", "--resume") == 1
    assert run_command(*words, "toy=right", "other=right", "--batch-sizes", "1", "--resume") == 0
    results = read(tmp_path)
    assert {case.artifact for case in results.cases} == {"toy", "other"}
    assert results.plan is not None
    assert results.plan.weights == {"toy": "right", "other": "right"}
    assert "other=right" in results.command


@pytest.mark.process
def test_run_is_the_default_command(fake: FakeMeasurement, exported_text: Path, tmp_path: Path) -> None:
    words = [str(exported_text), "--contenders", "runtime", "--batch-sizes", "1", "--format", "md", "-o"]
    assert run_command("run", *words, str(tmp_path / "a")) == run_command(*words, str(tmp_path / "b")) == 0
    explicit, default = (read_results(tmp_path / name) for name in "ab")
    assert explicit.cases == default.cases
    assert explicit.command.replace("/a", "/b") == default.command
