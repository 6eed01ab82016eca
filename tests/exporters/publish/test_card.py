"""The README of a layout names the files that were written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from exporters.publish.openvino import _describe_usage
from exporters.publish.publish import publish
from tests.exporters.publish.toys import add_variant, write_clip_artifact, write_text_artifact

KWARGS = 'backend="onnx", model_kwargs={"file_name": "onnx/%s.onnx"})'


@pytest.mark.parametrize(
    ("variant", "stem", "options"),
    [
        ("fp32", "model", 'dtype: "fp32"'),
        ("fp16", "model_fp16", 'dtype: "fp16"'),
        ("int8", "model_quantized", 'dtype: "q8"'),
        ("optimized", "model_O2", 'dtype: "fp32", model_file_name: "model_O2"'),
        ("compact", "model_compact", 'dtype: "fp32", model_file_name: "model_compact"'),
    ],
)
def test_a_hub_layout_of_one_variant_is_opened_by_its_name(
    variant: Any, stem: str, options: str, tmp_path: Path
) -> None:
    artifact = write_text_artifact(tmp_path / "toy")
    if variant != "fp32":
        add_variant(artifact, variant, "text")
    (hub,) = publish(artifact, ["huggingface"], tmp_path / "out", variants=[variant])
    card = (hub / "README.md").read_text()
    assert f'from_pretrained("this-folder", {{ {options} }})' in card
    assert f'model_file="onnx/{stem}.onnx"' in card
    assert (KWARGS % stem in card) is (variant != "fp32")
    for named in re.findall(r"onnx/\w+\.onnx", card):
        assert (hub / named).is_file(), named


def test_a_hub_layout_of_all_variants_is_opened_by_fp32(tmp_path: Path) -> None:
    (hub,) = publish(write_text_artifact(tmp_path / "toy", int8=True), ["huggingface"], tmp_path / "out")
    card = (hub / "README.md").read_text()
    assert 'backend="onnx")' in card
    assert 'dtype: "fp32"' in card


def test_a_clip_of_one_variant_is_opened_by_its_name(tmp_path: Path) -> None:
    artifact = write_clip_artifact(tmp_path / "toy")
    add_variant(artifact, "int8", "text", "image")
    (folder,) = publish(artifact, ["clip-js"], tmp_path / "out", variants=["int8"])
    assert {path.name for path in (folder / "onnx").iterdir()} == {
        *("text_model_quantized.onnx", "vision_model_quantized.onnx")
    }
    card = (folder / "README.md").read_text()
    assert re.findall(r'dtype: "(\w+)"', card) == ["q8", "q8"]
    assert "import {\n  AutoProcessor" in card


def test_an_openvino_layout_without_fp32_is_opened_by_its_name() -> None:
    file = "openvino/openvino_model_qint8_quantized.xml"
    card = _describe_usage("int8")
    assert f'backend="openvino", model_kwargs={{"file_name": "{file}", "ov_config": float32}})' in card
    assert re.findall(r"openvino/openvino_model\w*\.xml", card) == [file, file]
    assert "names = {name for each" in card
    assert 'backend="openvino", model_kwargs={"ov_config": float32})' in _describe_usage("fp32")
