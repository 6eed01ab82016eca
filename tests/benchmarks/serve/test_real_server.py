"""The load generator against the real server, which it starts for a toy artifact."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.cli import main
from runtime import console
from runtime.artifact.reader import read_manifest
from tests.runtime.toy_artifact import write_artifact

pytestmark = pytest.mark.process
FAST = (
    "--seconds",
    "2",  # some requests have to end on a busy machine, too
    "--warm-up",
    "0.05",
    "--rounds",
    "1",
    "--clients",
    "4",
    "--rate",
    "20",
    "--refinements",
    "0",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("served") / "toy", image=True)


def results_of(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_texts(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--workloads", "short", "--batch-sizes", "1", "8", "--embed", str(toy), "--verify", str(toy)]
    words += ["--machine", "a toy"]
    assert main(["serve", str(toy), "-o", str(tmp_path), *FAST, *words, "--server-options", "--truncate count"]) == 0
    results = results_of(tmp_path)
    assert results["complete"]
    server = results["servers"][0]
    assert server == server | {"started_here": True, "model": "toy", "dimensions": 4, "options": "--truncate count"}
    space = read_manifest(toy).space.id
    assert server["artifact"] == {"name": "toy", "space": space, "variant": "fp32", "provider": "cpu"}
    served = [load for load in results["loads"] if load["checked"]]
    assert len(served) == 4  # two sizes of requests, in both loops
    for load in served:
        assert load["failures"] == {}
        assert load["max_difference"] <= 1e-6
        assert load["min_cosine"] == pytest.approx(1)
        assert load["completed"] > 0
    assert "embed, no server" in (tmp_path / "report.md").read_text()
    capsys.readouterr()
    prices = tmp_path / "prices.toml"
    prices.write_text('date = "2026-01-19"\ncurrency = "USD"\n[machines."a toy"]\nper_hour = 1\nsource = "x"\n')
    words = ["--prices", str(prices), "--rate", "1", "--max-p99-ms", "1e6", "--min-cosine", "0.9", "--json"]
    assert main(["choose", str(tmp_path), *words]) == console.FAILURE  # 40 requests are too few for a p99
    choices = json.loads(capsys.readouterr().out)["choices"]
    assert [(each["artifact"], each["vectors"]) for each in choices] == [("toy", space)] * 2
    for each in choices:
        (found,) = each["rejected"]
        assert (found["machine"], found["setup"]) == ("a toy", "toy, fp32 on cpu")
        assert "p99" in found["reason"]


def test_images(toy: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("top-secret")
    words = ["--workloads", "images", "--rate", "none", "--server-options", "--api-key top-secret"]
    report = tmp_path / "report"
    assert main(["serve", str(toy), "-o", str(report), *FAST, *words, "--api-key-file", str(key)]) == 0
    assert "top-secret" not in (report / "results.json").read_text()
    results = results_of(report)
    (server,), (load,) = results["servers"], results["loads"]
    assert (server["options"], server["artifact"]["name"]) == ("--api-key ***", "toy")
    assert (load["failures"], load["max_difference"]) == ({}, 0.0)
    assert load["completed"] > 0


def test_own_images(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(16):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    words = ["--items", f"image={tmp_path / 'photos'}", "--rate", "none", "--verify", str(toy)]
    assert main(["serve", str(toy), "-o", str(tmp_path / "report"), *FAST, *words]) == 0
    results = results_of(tmp_path / "report")
    assert re.fullmatch(r"16 files of .* bytes \(median .*\), from photos", results["workloads"][0]["source"])
    (load,) = results["loads"]
    assert load["failures"] == {}
    assert load["min_cosine"] == pytest.approx(1)
