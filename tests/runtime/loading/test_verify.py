"""Test the golden vectors and their comparison."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.artifact.manifest import Tolerance
from runtime.artifact.parity import format_cosine, measure_agreement
from runtime.loading.golden import read_golden


def test_golden_vectors_are_reproduced(exported: Path, exported_float32: Path) -> None:
    for folder in (exported, exported_float32):
        result = runtime.verify(folder)
        assert result.provider == "cpu"
        (tower,) = result.towers.values()
        assert tower.items == 4
        assert tower.agreement.min_cosine > 1 - 1e-9


def test_vectors_of_another_model_are_refused(
    artifact: Path, edit_manifest: Callable[[Callable[[dict[str, Any]], None]], Path]
) -> None:
    path = artifact / "golden.npz"
    arrays = dict(np.load(path))
    arrays["image_embedding"] = arrays["image_embedding"] + np.float32(0.01)
    np.savez(path, **arrays)

    def rehash(manifest: dict[str, Any]) -> None:
        data = path.read_bytes()
        manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}

    with pytest.raises(runtime.VerificationError, match=r"golden vectors are not reproduced.*max abs error"):
        runtime.verify(edit_manifest(rehash))


def _save(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 but not a zip",
        _save(image_embedding=np.zeros((0, 12))),
        _save(image_embedding=np.zeros((1, 7)), image_0=np.zeros((2, 2, 3), np.uint8)),
        _save(image_embedding=np.zeros((1, 12))),
        _save(image_embedding=np.float32(3)),
        _save(image_embedding=np.array([{"pickled": 1}])),
    ],
)
def test_damaged_golden_files_are_refused(artifact: Path, content: bytes) -> None:
    (artifact / "golden.npz").write_bytes(content)
    with pytest.raises(runtime.IntegrityError, match=r"golden\.npz"):
        read_golden(artifact, "image", 12)


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
