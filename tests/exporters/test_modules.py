from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import ResNet50_Weights, resnet18
from torchvision.transforms._presets import ImageClassification

from exporters.modules.pooling import AvgPool, GeMPool, build_pooling
from exporters.sources.untrained import make_plausible
from runtime.errors import UsageError
from runtime.manifest import Pooling

FEATURES = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 4, 6)).astype(np.float32))


def test_avg_is_the_mean_over_height_and_width() -> None:
    expected = torch.nn.AdaptiveAvgPool2d(1)(FEATURES).flatten(1)
    torch.testing.assert_close(AvgPool()(FEATURES), expected)


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_is_the_generalised_mean(p: float) -> None:
    clamped = np.maximum(FEATURES.numpy().astype(np.float64), 1e-6)
    expected = (clamped**p).mean(axis=(2, 3)) ** (1 / p)
    np.testing.assert_allclose(GeMPool(p, 1e-6)(FEATURES).numpy(), expected, rtol=1e-5)


def test_gem_of_dead_features_is_finite() -> None:
    assert torch.isfinite(GeMPool(3.0, 1e-6)(torch.full((1, 2, 3, 3), -1.0))).all()


def test_the_record_decides_the_module() -> None:
    assert isinstance(build_pooling(Pooling()), AvgPool)
    gem = build_pooling(Pooling(method="gem", p=4.0, eps=1e-3))
    assert isinstance(gem, GeMPool)
    assert (gem.p, gem.eps) == (4.0, 1e-3)


@pytest.mark.parametrize("fields", [{"p": 0.0, "eps": 1e-6}, {"p": 3.0, "eps": 0.0}, {"p": -1.0, "eps": 1.0}, {}])
def test_gem_without_its_parameters_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="p and eps above 0"):
        Pooling(method="gem", **fields)


def test_random_weights_neither_fade_nor_explode() -> None:
    transforms: ImageClassification = ResNet50_Weights.DEFAULT.transforms(crop_size=64, resize_size=70)
    torch.manual_seed(0)
    model = resnet18().eval()
    features = torch.nn.Sequential(*list(model.children())[:-2])
    pixels = torch.rand(2, 3, 64, 64)
    make_plausible(model, transforms)
    with torch.inference_mode():
        spread = float(features(pixels).std())
    assert 0.05 < spread < 20
    assert not any(module.training for module in model.modules())
