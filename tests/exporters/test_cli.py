from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.cli.main import build_parser, main
from exporters.errors import ParityError
from exporters.progress import StageDisplay, expect, step_counter, track
from runtime.artifact.parity import Tolerance
from runtime.errors import UsageError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, exported: Path) -> list[tuple[str, Path, ExportOptions]]:
    """Records what would be exported; every export gives the tiny artifact, that of efficientnet-base fails."""
    recorded: list[tuple[str, Path, ExportOptions]] = []

    def record(name: str, *, output: Path, artifact_name: str | None, options: ExportOptions, stage: Any) -> Path:
        assert artifact_name in (None, "mine")
        recorded.append((name, output, options))
        if name == "efficientnet-base":
            raise ParityError("the graph differs from torch")
        return exported

    monkeypatch.setattr("exporters.cli.export.export", record)
    return recorded


@pytest.mark.parametrize("prefix", [[], ["export"]])
def test_a_name_alone_is_an_export(prefix: list[str], calls: list[Any]) -> None:
    assert main([*prefix, "resnet-base"]) == 0
    assert calls == [("resnet-base", Path("artifacts"), ExportOptions())]


def test_every_option_arrives(calls: list[Any], tmp_path: Path) -> None:
    run = tmp_path / "run.zip"
    run.touch()
    words = f"""--output {tmp_path} --weights {run} --pooling gem --gem-p 2.5 --normalize --image-size 96
        --input float32 --opset 21 --min-cosine 0.9 --max-error 0.01 --max-distance-share 0.1 --force
        --name mine --select-model both resnet-large"""
    assert main(words.split()) == 0
    ((name, output, options),) = calls
    assert (name, output) == ("resnet-large", tmp_path)
    assert (options.weights, options.normalize, options.image_size) == (str(run), True, 96)
    assert (options.input, options.opset, options.force) == ("float32", 21, True)
    assert options.select_model == "both"
    assert options.pooling is not None
    assert (options.pooling.method, options.pooling.p, options.pooling.eps) == ("gem", 2.5, 1e-6)
    assert options.tolerance == Tolerance(min_cosine=0.9, max_error=0.01, max_distance_share=0.1)


def test_options_of_clip_arrive(calls: list[Any]) -> None:
    assert main(["--tower", "text", "--tokenizer", "tok", "clip-base-en"]) == 0
    ((_, _, options),) = calls
    assert (options.tower, options.tokenizer) == ("text", Path("tok"))


def test_several_names_go_on_after_a_failure(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["efficientnet-base", "resnet-base", "resnet-base"]) == 1
    assert [name for name, _, _ in calls] == ["efficientnet-base", "resnet-base"]
    out, err = capsys.readouterr()
    assert "1 of 2 exported; failed: efficientnet-base" in out
    assert "error: efficientnet-base: the graph differs from torch" in err


@pytest.mark.parametrize("names", ["resnet-base", "resnet-base resnet-large"])
def test_an_error_of_usage_found_later_exits_with_2_too(
    names: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise UsageError("the key \x1b[31mred is for no backbone")

    monkeypatch.setattr("exporters.cli.export.export", refuse)
    assert main(names.split()) == 2
    assert "error: resnet-base: the key \\x1b[31mred" in capsys.readouterr().err


def test_all_is_every_one(calls: list[Any]) -> None:
    main(["all"])
    assert [name for name, _, _ in calls] == list(BACKBONES)


def test_random_weights_are_called_random(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet-base", "--weights", "random"]) == 0
    assert "WARNING: the weights are random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet-bsae"], "did you mean resnet-base"),
        (["all", "resnet-bsae"], "did you mean resnet-base"),
    ],
)
def test_names_are_checked_before_anything_is_exported(
    arguments: list[str], message: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    "words",
    [
        "--weights random:x resnet-base",
        "--name mine resnet-base resnet-large",
        "--name ../mine resnet-base",
        "--gem-p 2 resnet-base",
        "--pooling gem --gem-p -1 resnet-base",
        "--image-size 8 resnet-base",
        "--image-size 20000 resnet-base",
        "--pooling gem --gem-p inf resnet-base",
        "--min-cosine 2 resnet-base",
        "--pooling mean clip-base-en",
        "--pooling max pointnet-base",
        "--image-size 96 bert-base-en",
        "--image-size 96 clip-base-multi",
        "--input float32 bert-base-en",
        "--input float32 pointnet-base",
        "--tower image resnet-base",
        "--tower text bert-base-en",
        "--tokenizer folder resnet-base",
        "--tokenizer folder pointnet-base",
        "--level all resnet-base",
        "--calibration folder resnet-base",
        "--precision fp16 --level all resnet-base",
    ],
)
def test_values_that_cannot_be_right_exit_with_2(
    words: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert calls == []


@pytest.mark.parametrize(
    "words", ["", "export", "--opset 7 resnet-base", "--pooling sum resnet-base", "--fast resnet-base", "list --task x"]
)
def test_wrong_usage_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert "usage: python -m exporters" in capsys.readouterr().err


def test_an_existing_artifact_is_refused_at_once(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact.rename(artifact.parent / "resnet-base")
    assert main(["resnet-base", "--output", str(artifact.parent)]) == 1
    err = capsys.readouterr().err
    assert "resnet-base exists; use --force" in err
    assert "import torch" not in err


def test_every_option_has_help() -> None:
    (commands,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    assert {"export", "optimize", "fit", "publish", "sign", "bom", "list"} == set(commands.choices)
    for parser in commands.choices.values():
        assert all(action.help for action in parser._actions)


def test_stages_are_shown_with_their_times(capsys: pytest.CaptureFixture[str]) -> None:
    stage = StageDisplay(sys.stderr)
    with stage("trace graph"):
        time.sleep(0.01)
    with pytest.raises(ValueError, match="no"), stage("compare"):
        raise ValueError("no")
    first, second = capsys.readouterr().err.splitlines()
    assert first.split()[:2] == ["trace", "graph"]
    assert first.endswith(" s")
    assert second.endswith("failed")
    with pytest.raises(KeyboardInterrupt), stage("compare"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.strip().endswith("interrupted")


def test_a_terminal_shows_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expect(5)
    assert list(track("ab")) == ["a", "b"], "nothing is shown without a stage"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    stage = StageDisplay(sys.stderr)
    with stage("text int8"):
        expect(2)
        assert list(track("ab", lambda item: 2)) == ["a", "b"], "more steps than expected"
        expect(4)
        step_counter()(1)
    err = capsys.readouterr().err
    assert "0/2 [00:00<?" in err
    assert "4/8 [00:00<00:00" in err
    assert err.splitlines()[-1].split()[:2] == ["text", "int8"]


def test_a_path_that_leads_nowhere_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet-base", "--weights", str(tmp_path / "none.pth"), "--output", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "none.pth; --weights takes" in err
    assert "import torch" not in err


def test_list_as_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(BACKBONES)


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "purpose", "extra"),
    [
        (["optimize"], "exporting", "export,cpu"),
        (["publish", "--to", "single", "-o", "nowhere"], "publishing", "publish"),  # its packages do not bring torch
    ],
)
def test_a_command_without_its_packages_names_the_one_that_installs_them(
    words: list[str], purpose: str, extra: str, exported: Path
) -> None:
    code = (
        "import sys; sys.modules['onnx_ir'] = None; from exporters.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words, str(exported)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    install = f"install it with `pip install 'embedding-backbones[{extra}]'`"
    assert result.stderr.startswith(f"error: {purpose} needs onnx_ir; {install}")
