from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporters.bom import make_bom
from exporters.cli.main import main
from runtime.artifact.reader import read_manifest
from tests.runtime.spaces import add_variants
from tests.runtime.toy_artifact import write_artifact


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return add_variants(write_artifact(tmp_path / "toy", image=True), "int8")


def with_weights(folder: Path, **fields: Any) -> Path:
    manifest = read_manifest(folder)
    changed = replace(manifest, weights=replace(manifest.weights, **fields))
    (folder / "manifest.json").write_text(changed.to_json(), "utf-8")
    return folder


@pytest.mark.parametrize("licence", [None, "Apache-2.0", "the publisher's own terms"])
def test_the_strict_validator_accepts_it(licence: str | None, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion

    with_weights(toy, licence=licence, revision="abc")
    assert main(["bom", str(toy)]) == 0
    printed = capsys.readouterr().out
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed) is None
    wrong = json.loads(printed)
    wrong["metadata"]["component"]["modelCard"]["surprise"] = 1
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(wrong)) is not None


def test_it_has_the_files_the_licence_and_the_figures(toy: Path) -> None:
    manifest = read_manifest(with_weights(toy, licence="MIT", revision="abc"))
    bom = make_bom(toy)
    assert bom == make_bom(toy), "the same artifact gives the same document"
    model = bom["metadata"]["component"]
    hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert hashes == {name: record.sha256 for name, record in manifest.files.items()}
    assert model["licenses"] == [{"license": {"id": "MIT"}}]
    assert model["pedigree"]["ancestors"][0]["version"] == "abc"
    measured = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    metrics = {(each["slice"], each["type"]): each["value"] for each in measured}
    assert metrics["text: fp32 to torch", "max_abs_error"] == "1e-07"
    assert metrics["text: int8 to fp32", "neighbour_overlap"] == "0.95"
    assert any("random" in text for text in model["modelCard"]["considerations"]["technicalLimitations"])


def test_a_damaged_artifact_has_no_bill(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "text.onnx").write_bytes(b"other")
    assert main(["bom", str(toy)]) == 1
    assert "has changed since export" in capsys.readouterr().err
