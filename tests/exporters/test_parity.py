"""The gate has to shut: every defect it exists for is planted here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.catalogue.options import DEFAULT_TOLERANCE, ExportOptions
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import ExportError, GraphError, ParityError
from exporters.export_towers import export_towers
from exporters.families.cnn.tower import Cnn, CnnTower
from exporters.parity import batch_sizes, check_reference, measure_parity
from runtime.errors import NonFiniteError

REFERENCE = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
ExportTiny = Callable[[BackboneSpec, Cnn, Path], Path]
Embed = Callable[[list[int], int], np.ndarray[Any, Any]]


class FakeModel:
    """An embedder of row numbers, with a defect."""

    provider = "cpu"

    def __init__(self, embed: Embed) -> None:
        self._embed = embed

    def embed(self, items: Sequence[int], *, tower: str, batch_size: int) -> np.ndarray[Any, Any]:
        batches = [list(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
        return np.concatenate([self._embed(batch, batch_size) for batch in batches])


def judge(embed: Embed, reference: np.ndarray[Any, Any] = REFERENCE) -> Any:
    return measure_parity(FakeModel(embed), "image", range(6), reference, DEFAULT_TOLERANCE)[0]  # type: ignore[arg-type]


def test_an_exact_graph_passes() -> None:
    parity = judge(lambda rows, _: REFERENCE[rows])
    assert (parity.max_abs_error, parity.max_batch_error, parity.items) == (0, 0, 6)
    assert parity.batch_sizes == (1, 3, 6)
    distances = np.linalg.norm(REFERENCE[:, None] - REFERENCE[None], axis=2)
    assert parity.min_distance == pytest.approx(distances[distances > 0].min(), rel=1e-6)


def test_batches_are_of_one_of_three_and_of_all() -> None:
    assert batch_sizes(6) == (1, 3, 6)
    assert batch_sizes(3) == (1, 3)


def _nan(rows: list[int], _: int) -> np.ndarray[Any, Any]:
    raise NonFiniteError("image.onnx returned NaN")


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda rows, _: REFERENCE[rows] + np.float32(1e-3), "differs from torch"),
        (lambda rows, _: REFERENCE[rows] * np.float32(2), "differs from torch"),
        (lambda rows, _: REFERENCE[rows][:, ::-1], "differs from torch"),
        (lambda rows, _: np.zeros_like(REFERENCE[rows]), "differs from torch"),
        (lambda rows, _: np.repeat(REFERENCE[rows[:1]], len(rows), axis=0), "depends on its batch"),
        (lambda rows, size: REFERENCE[rows] + np.float32(1e-3 * (size == 3)), "depends on its batch"),
        (_nan, "returned NaN"),
    ],
    ids=["offset", "scale", "order", "zeros", "first-row-for-all", "one-batch-size", "nan"],
)
def test_a_wrong_graph_is_stopped(embed: Embed, message: str) -> None:
    with pytest.raises(ParityError, match=message):
        judge(embed)


def test_the_figures_are_told() -> None:
    with pytest.raises(ParityError, match=r"min cosine .* \(at least .*\), max abs error 0\.001 .*\(at most"):
        judge(lambda rows, _: REFERENCE[rows] + np.float32(1e-3))


def test_a_reference_that_is_not_finite_is_stopped() -> None:
    with pytest.raises(ParityError, match="torch's own embeddings hold NaN"):
        check_reference(np.full_like(REFERENCE, np.nan))


def test_a_model_that_cannot_tell_inputs_apart_is_stopped() -> None:
    with pytest.raises(ParityError, match="two different inputs the same vector"):
        check_reference(np.repeat(REFERENCE[:1], 6, axis=0))
    check_reference(REFERENCE)


def test_errors_have_to_vanish_beside_the_distance_of_inputs() -> None:
    """A tenth of the distance between inputs, in vectors that are all but parallel: cosine sees nothing of it."""
    close = 1 + REFERENCE * np.float32(1e-6)
    with pytest.raises(ParityError, match="not small compared with the distance"):
        judge(lambda rows, _: close[rows] + np.float32(1e-6), close)


class WithoutPooling(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features[..., 0, 0]


class Miscounted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.model(pixels)
        return embedding - embedding.mean(dim=0)


class SabotagedTower(CnnTower):
    def __init__(self, cnn: Cnn, sabotage: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__(cnn, ExportOptions(), output_dim=12)
        self._sabotage = sabotage

    def module(self) -> nn.Module:
        return self._sabotage(super().module())


def _without_pooling(module: nn.Module) -> nn.Module:
    module.set_submodule("backbone.0.avgpool", WithoutPooling())
    return module


def _in_bgr(module: nn.Module) -> nn.Module:
    weight = module.get_submodule("backbone.0.features.0").weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.copy_(weight.flip(1))
    return module


@pytest.mark.parametrize("sabotage", [_without_pooling, _in_bgr, Miscounted], ids=["no pooling", "BGR", "batch mean"])
def test_a_graph_that_exports_and_is_wrong_leaves_no_artifact(
    sabotage: Callable[[nn.Module], nn.Module], tiny_cnn: Cnn, tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    tower = SabotagedTower(tiny_cnn, sabotage)
    with pytest.raises(ParityError, match="min cosine"):
        export_towers(tiny_spec, [tower], tmp_path / "tiny", options=ExportOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "drift",
    [{"interpolation": "bicubic"}, {"resize_size": 45}, {"mean": (0.5, 0.456, 0.406)}],
    ids=lambda d: next(iter(d)),
)
def test_preprocessing_that_drifts_is_stopped(
    drift: dict[str, Any], tiny_cnn: Cnn, tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    tower = CnnTower(tiny_cnn, ExportOptions(), output_dim=12)
    tower.record = replace(tower.record, preprocessing=replace(tower.preprocessing, **drift))
    with pytest.raises(ParityError):
        export_towers(tiny_spec, [tower], tmp_path / "tiny", options=ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_output_dim_is_stopped(
    export_default: ExportTiny, tiny_cnn: Cnn, tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    with pytest.raises(GraphError):
        export_default(replace(tiny_spec, output_dim=13), tiny_cnn, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_damaged_are_stopped(
    export_default: ExportTiny, tiny_cnn: Cnn, tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(tiny_cnn.model.parameters()).fill_(float("nan"))
    with pytest.raises(ExportError, match="NaN"):
        export_default(tiny_spec, tiny_cnn, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []
