"""The string of ``--weights`` is parsed once, by the content of the path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.weights_ref import (
    FinetunerRun,
    ModelFolder,
    Pretrained,
    RandomInit,
    StateDict,
    parse_weights,
)
from exporters.errors import WeightsError, WeightsUnavailableError
from runtime.errors import UsageError
from tests.exporters.toys import zip_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with the layout of a Finetuner run."""
    (tmp_path / "run" / "models" / "toy").mkdir(parents=True)
    (tmp_path / "run" / "models" / "toy" / "metadata.yml").write_text("name: toy")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("pretrained", Pretrained()),
        ("random", RandomInit(0)),
        ("random:7", RandomInit(7)),
        (f"random:{2**63 - 1}", RandomInit(2**63 - 1)),
    ],
)
def test_words_are_parsed(text: str, weights: object) -> None:
    assert parse_weights(text) == weights


@pytest.mark.parametrize("text", ["random:x", "random:", "random:-1", f"random:{2**63}"])
def test_a_seed_that_torch_does_not_take_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number from 0"):
        parse_weights(text)


def test_the_content_of_a_path_decides_its_kind(tmp_path: Path, run: Path) -> None:
    state_dict, folder = tmp_path / "weights.pt", tmp_path / "model"
    state_dict.touch()
    folder.mkdir()
    assert parse_weights(str(state_dict)) == StateDict(state_dict)
    assert parse_weights(str(folder)) == ModelFolder(folder)
    assert parse_weights(str(run)) == FinetunerRun(run)
    assert parse_weights(str(zip_folder(run))) == FinetunerRun(tmp_path / "run.zip")
    (run / "config.json").write_text("{}")
    assert parse_weights(str(run)) == ModelFolder(run)


def test_a_run_in_a_zip_of_another_suffix_is_a_run(run: Path) -> None:
    packed = zip_folder(run).rename(run.with_suffix(".artifact"))
    assert parse_weights(str(packed)) == FinetunerRun(packed)


def test_the_shards_of_fsdp_are_to_be_joined(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(WeightsError, match=r"is a distributed checkpoint, .* dcp_to_torch"):
        parse_weights(str(tmp_path))


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"`pretrained`, `random\[:SEED\]`, or the path"):
        parse_weights(str(tmp_path / "none"))


def test_options_parse_their_weights_again_when_they_change() -> None:
    options = ExportOptions(weights="random:4")
    assert options.weights_ref == RandomInit(4)
    assert replace(options, weights="pretrained").weights_ref == Pretrained()
