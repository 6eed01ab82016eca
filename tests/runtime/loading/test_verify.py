"""Test the golden vectors and their comparison."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

import runtime
from runtime.artifact.manifest import Tower, TowerName
from runtime.artifact.parity import Tolerance, format_cosine, measure_agreement
from runtime.artifact.reader import read_manifest
from runtime.loading.golden import verify_towers
from runtime.loading.golden_file import read_golden
from runtime.loading.verify import Verification, _check_length
from tests.runtime.session.variant_samples import make_variant
from tests.runtime.toy_artifact import write_artifact

EditManifest = Callable[[Callable[[dict[str, Any]], None]], Path]


def test_golden_vectors_are_reproduced(exported: Path, exported_float32: Path) -> None:
    for folder in (exported, exported_float32):
        result = runtime.verify(folder)
        assert result.provider == "cpu"
        (tower,) = result.towers.values()
        assert tower.items == 4
        assert tower.agreement.min_cosine > 1 - 1e-9


def _rehash(folder: Path) -> Callable[[dict[str, Any]], None]:
    data = (folder / "golden.npz").read_bytes()
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return lambda manifest: manifest["files"].update({"golden.npz": record})


def test_a_variant_that_is_verified_is_not_warned_of_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    folder = write_artifact(tmp_path / "toy")
    shutil.copy(folder / "text.onnx", folder / "text.optimized.onnx")
    manifest = read_manifest(folder)
    variant = make_variant("optimized", "cpu", graph="text.optimized.onnx", onnxruntime="1.2.3")
    towers: dict[TowerName, Tower] = {"text": replace(manifest.towers["text"], variants={"optimized": variant})}
    files = {**manifest.files, "text.optimized.onnx": manifest.files["text.onnx"]}
    (folder / "manifest.json").write_text(replace(manifest, towers=towers, files=files).to_json(), "utf-8")
    runtime.verify(folder, provider="cpu")
    assert "was checked with onnxruntime 1.2.3" in caplog.text, "the first time"
    caplog.clear()
    assert runtime.load(folder, provider="cpu").variant == "optimized"
    runtime.verify(folder, provider="cpu")
    assert not caplog.records


def test_vectors_of_another_model_are_refused(artifact: Path, edit_manifest: EditManifest) -> None:
    path = artifact / "golden.npz"
    arrays = dict(np.load(path))
    arrays["image_embedding"] = arrays["image_embedding"] + np.float32(0.01)
    np.savez(path, **arrays)
    with pytest.raises(runtime.VerificationError, match=r"golden vectors are not reproduced.*max abs error"):
        runtime.verify(edit_manifest(_rehash(artifact)))


def test_one_vector_for_four_items_is_refused(artifact: Path, edit_manifest: EditManifest) -> None:
    path = artifact / "golden.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"image_embedding": arrays["image_embedding"][:1]})
    with pytest.raises(runtime.IntegrityError, match=r"image_embedding is float32 \[1, 12\]"):
        runtime.verify(edit_manifest(_rehash(artifact)))


@pytest.mark.parametrize("shape", [(60_000, 60_000, 3), (2**24 + 1, 1, 3), (4, 4, 4), (4,)])
def test_a_golden_image_is_refused_by_its_header_before_it_is_unpacked(artifact: Path, shape: tuple[int, ...]) -> None:
    vectors = np.zeros((4, 12), np.float32)
    with zipfile.ZipFile(artifact / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("image_embedding.npy", "w") as file:
            np.save(file, vectors)
        with archive.open("image_0.npy", "w") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            file.write(bytes(2**16))
    with pytest.raises(runtime.IntegrityError, match=r"image_0 is uint8 .* does not fit"):
        read_golden(artifact, read_manifest(artifact), "image")


def test_compressions_that_unpack_without_bound_are_refused(artifact: Path) -> None:
    with zipfile.ZipFile(artifact / "golden.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("image_embedding.npy", b"")
    with pytest.raises(runtime.IntegrityError, match="compressed by a method"):
        read_golden(artifact, read_manifest(artifact), "image")


def test_a_wrong_statement_about_unit_length_is_refused(artifact: Path, edit_manifest: EditManifest) -> None:
    def claim(manifest: dict[str, Any]) -> None:
        manifest["towers"]["image"]["normalized"] = True

    with pytest.raises(runtime.IntegrityError, match=r"normalized true .* do not all have unit length"):
        runtime.verify(edit_manifest(claim))


def test_a_silent_normalisation_is_refused(exported_float32: Path) -> None:
    model = runtime.load(exported_float32)
    (tower,) = verify_towers(model, exported_float32).values()
    assert tower.unit_length
    denied = replace(model.manifest.towers["image"], normalized=False)
    model.manifest = replace(model.manifest, towers={"image": denied})
    with pytest.raises(runtime.IntegrityError, match=r"normalized false .* all have unit length"):
        _check_length(model, Verification(provider="cpu", variant="fp32", towers={"image": tower}))


def _save(end: bytes = b"", **arrays: Any) -> bytes:
    """Return an .npz whose arrays are each followed by ``end``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, array)
                file.write(end)
    return buffer.getvalue()


_VECTORS, _IMAGE = np.zeros((4, 12), np.float32), np.zeros((2, 2, 3), np.uint8)
_IMAGES: dict[str, Any] = dict.fromkeys(("image_0", "image_1", "image_2", "image_3"), _IMAGE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip"),
        (b"PK\x03\x04 but not a zip", "not a zip"),
        (_save(image_embedding=np.zeros((0, 12))), "does not fit"),
        (_save(image_embedding=np.zeros((1, 7)), image_0=_IMAGE), "does not fit"),
        (_save(image_embedding=np.zeros((1, 12))), "does not fit"),
        (_save(image_embedding=np.float32(3)), "does not fit"),
        (_save(image_embedding=np.array([{"pickled": 1}])), "does not fit"),
        (_save(b"more", image_embedding=_VECTORS, **_IMAGES), "image_embedding is longer than its header says"),
        (_save(image_embedding=_VECTORS, **_IMAGES | {"image_0": _IMAGE / 255}), "image_0 is float64"),
    ],
)
def test_damaged_golden_files_are_refused(artifact: Path, content: bytes, message: str) -> None:
    (artifact / "golden.npz").write_bytes(content)
    with pytest.raises(runtime.IntegrityError, match=rf"golden\.npz \(.*{message}"):
        read_golden(artifact, read_manifest(artifact), "image")


def test_agreement_of_equal_vectors_is_perfect() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 8))
    agreement = measure_agreement(vectors, vectors)
    assert agreement.max_abs_error == agreement.max_row_error == 0
    assert agreement.within(Tolerance(min_cosine=1 - 1e-12, max_error=1e-12, max_distance_share=1))


@pytest.mark.parametrize("flaw", [np.nan, np.inf])
def test_vectors_that_are_not_finite_never_agree(flaw: float) -> None:
    reference = np.ones((2, 4))
    actual = reference.copy()
    actual[0, 0] = flaw
    assert not measure_agreement(reference, actual).within(
        Tolerance(min_cosine=1e-9, max_error=0.9, max_distance_share=1)
    )


def test_a_vector_of_zeros_never_agrees() -> None:
    reference = np.eye(3)
    assert not measure_agreement(reference, np.zeros((3, 3))).within(
        Tolerance(min_cosine=1e-9, max_error=0.9, max_distance_share=1)
    )


@pytest.mark.parametrize(
    ("cosine", "text"), [(1 - 4.5e-12, "1 - 4.5e-12"), (1.0, "1"), (0.5, "0.5"), (float("nan"), "nan")]
)
def test_cosines_keep_the_digits_that_matter(cosine: float, text: str) -> None:
    assert format_cosine(cosine) == text
