"""One copy of the weights for fp32 and its variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import runtime
from exporters.errors import VariantError
from exporters.graph import shared_weights
from exporters.graph.shared_weights import SharedWeights
from exporters.variants.build import add_variants
from exporters.variants.options import VariantOptions
from runtime.artifact.reader import check_files, read_manifest
from runtime.errors import IntegrityError
from tests.exporters.file_contents import contents
from tests.exporters.variants.planted_faults import spoil

pytestmark = pytest.mark.process  # each new variant is loaded in a process of its own
TEXTS = ["a cup of coffee", "the rocket left the launch pad at noon", ""]


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a toy share its weights like a model of 90 MB."""
    monkeypatch.setattr(shared_weights, "MIN_SHARED_BYTES", 1000)
    monkeypatch.setattr(shared_weights, "_MIN_TENSOR_BYTES", 500)


@pytest.mark.usefixtures("sharing")
def test_fp32_and_a_variant_share_one_copy_of_the_weights(text_artifact: Path) -> None:
    before = runtime.load(text_artifact, variant="fp32").embed(TEXTS)
    alone = (text_artifact / "text.onnx").stat().st_size
    add_variants(text_artifact, VariantOptions(items=16))
    first, manifest = contents(text_artifact), read_manifest(text_artifact)
    tower = manifest.towers["text"]
    check_files(text_artifact, manifest)
    assert (tower.external_data, tower.variants["optimized"].external_data) == ("text.onnx.data", "text.onnx.data")
    assert len(first["text.onnx.data"]) > 0.5 * alone
    assert len(first["text.optimized.onnx"]) < 0.5 * alone, "the weights are not in it"
    assert "| text.onnx.data | weights of the graph and of optimized" in first["README.md"].decode()
    moved = text_artifact.rename(text_artifact.with_name("moved"))
    np.testing.assert_array_equal(runtime.load(moved, variant="fp32").embed(TEXTS), before)
    assert runtime.verify(moved).variant == "optimized"
    add_variants(moved, VariantOptions(items=16))
    assert contents(moved) == first
    (moved / "text.onnx.data").unlink()
    with pytest.raises(IntegrityError, match=r"text\.onnx\.data is missing"):
        runtime.load(moved)


@pytest.mark.usefixtures("sharing")
def test_a_failed_variant_leaves_shared_weights_and_unshared_ones_unchanged(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unshared = contents(text_artifact)
    with monkeypatch.context() as planted:
        spoil(planted)
        with pytest.raises(VariantError, match="min cosine"):
            add_variants(text_artifact, VariantOptions(items=16))
    assert contents(text_artifact) == unshared
    add_variants(text_artifact, VariantOptions(items=16))
    shared = read_manifest(text_artifact)
    spoil(monkeypatch)
    add_variants(text_artifact, VariantOptions(items=16, precisions=("fp32", "fp16")))
    check_files(text_artifact, read_manifest(text_artifact))
    assert (
        read_manifest(text_artifact).towers["text"].variants["optimized"] == shared.towers["text"].variants["optimized"]
    )


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("fault", ["places", "content"])
def test_wrong_shared_weights_are_found(text_artifact: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    before, right, end = contents(text_artifact), shared_weights._write_tensors, SharedWeights.finish

    def confuse(tensors: list[onnx.TensorProto], path: Path) -> dict[bytes, tuple[int, int]]:
        places = right(tensors, path)
        return {digest: (max(0, offset - 64), length) for digest, (offset, length) in places.items()}

    def damage(weights: SharedWeights, *, used: bool) -> str | None:
        weights.path.write_bytes(bytes(weights.path.stat().st_size))
        return end(weights, used=used)

    if fault == "places":
        monkeypatch.setattr(shared_weights, "_write_tensors", confuse)
    else:
        monkeypatch.setattr(SharedWeights, "finish", damage)
    with pytest.raises(VariantError, match="text optimized: " if fault == "places" else "gives other vectors"):
        add_variants(text_artifact, VariantOptions(items=16))
    assert contents(text_artifact) == before
