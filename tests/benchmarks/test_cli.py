"""Test the commands of ``python -m benchmarks``, and what each of them imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import cli


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_is_listed_and_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert f"    {command} " in capsys.readouterr().out.replace("\n", " \n")
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"usage: python -m benchmarks {command} " in capsys.readouterr().out


def test_no_words_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("command", ["choose", "compare"])
def test_reading_reports_needs_only_the_runtime(command: str) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'onnx', 'onnx_ir', 'transformers', 'jinja2', 'psutil'))\n"
        f"from benchmarks.cli import main; main([{command!r}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "usage" in done.stdout


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(cli.COMMANDS, "choose", cli.Command("benchmarks.nowhere", "a module that is missing"))
    assert cli.main(["choose"]) == 1
    assert (
        "needs benchmarks.nowhere; install it with `pip install 'embedding-backbones[bench" in capsys.readouterr().err
    )
