from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling
from timm.layers.layer_scale import LayerScale
from torch import nn
from torchvision.models import ResNet, ResNet50_Weights, efficientnet_b0
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import Bottleneck
from torchvision.transforms._presets import ImageClassification

from exporters.modules.attention import SelfAttention, unpack_attention
from exporters.modules.pooling import AvgPool, GeMPool, TokenPool, build_image_pooling
from exporters.samples.photos import load_photos
from exporters.weights.random_init import calibrate_on_photos, stabilize_activations
from runtime.artifact.manifest import Pooling
from runtime.errors import UsageError

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
    assert isinstance(build_image_pooling(Pooling(method="avg")), AvgPool)
    gem = build_image_pooling(Pooling(method="gem", p=4.0, eps=1e-3))
    assert isinstance(gem, GeMPool)
    assert (gem.p, gem.eps) == (4.0, 1e-3)
    with pytest.raises(NotImplementedError, match="pooling max of a feature map"):
        build_image_pooling(Pooling(method="max"))
    with pytest.raises(NotImplementedError, match="pooling eos of tokens"):
        TokenPool(Pooling(method="eos"))(torch.ones(1, 2, 3), torch.ones(1, 2))


@pytest.mark.parametrize("fields", [{"p": 0.0, "eps": 1e-6}, {"p": 3.0, "eps": 0.0}, {"p": -1.0, "eps": 1.0}, {}])
def test_gem_without_its_parameters_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="p and eps above 0"):
        Pooling(method="gem", **fields)


@pytest.mark.parametrize("method", [*TheirPooling.POOLING_MODES, ("weightedmean", "cls", "lasttoken")])
@pytest.mark.parametrize("prompt", [0, 1, 2, 7], ids="prompt of {}".format)
def test_tokens_are_pooled_as_by_sentence_transformers(method: Any, prompt: int) -> None:
    """Also for a prompt that is as long as a text, or longer: the library's own result for a text without tokens."""
    if prompt == 7 and "max" in method:
        pytest.skip("the maximum of no tokens is -infinity in the library")
    features = torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    theirs = TheirPooling(6, method, include_prompt=False)
    given = {"token_embeddings": features, "attention_mask": mask} | ({"prompt_length": prompt} if prompt else {})
    expected = theirs(given)["sentence_embedding"]
    kept = mask.clone()
    kept[:, :prompt] = 0
    names: list[Any] = [method] if isinstance(method, str) else list(method)
    ours = TokenPool(Pooling(method=names[0], others=tuple(names[1:])), skips_prompt=True)
    torch.testing.assert_close(ours(features, kept), expected)


def test_residual_branches_of_random_weights_count() -> None:
    def refuse(image: Image.Image) -> torch.Tensor:
        raise AssertionError("there is no batch norm")

    model = nn.Sequential(CNBlock(4, layer_scale=1e-6, stochastic_depth_prob=0), LayerScale(4, init_values=1e-5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibrate_on_photos(model, refuse)
    changed = {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed.keys() == {"0.layer_scale", "1.gamma"}
    assert all((value == 0.2).all() for value in changed.values())


@pytest.mark.parametrize("builder", [partial(ResNet, Bottleneck, [1, 2, 1, 1]), partial(efficientnet_b0)])
def test_random_weights_neither_fade_nor_amplify(builder: Callable[[], nn.Module]) -> None:
    """Every batch norm is to give about unit variance on photos, and residual branches a small share of their sum."""
    transforms: ImageClassification = ResNet50_Weights.DEFAULT.transforms(crop_size=96, resize_size=100)
    torch.manual_seed(0)
    model = builder().eval()
    pixels = torch.stack([transforms(photo) for photo in load_photos()])
    before = _spread_of_batch_norms(model, pixels)
    stabilize_activations(model, transforms)
    after = _spread_of_batch_norms(model, pixels)
    assert min(before) < 0.5
    assert all(0.8 < spread < 1.1 for spread in after)
    gammas = {round(norm.weight.mean().item(), 6) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert gammas == {1.0, 0.2}
    assert not any(module.training for module in model.modules())


def _spread_of_batch_norms(model: nn.Module, pixels: torch.Tensor) -> list[float]:
    """Returns the standard deviation of each batch norm's output, before its own scale."""
    spreads: list[float] = []

    def watch(norm: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        spreads.append(float((output / norm.weight[:, None, None]).std()))

    hooks = [norm.register_forward_hook(watch) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    with torch.inference_mode():
        model(pixels)
    for hook in hooks:
        hook.remove()
    return spreads


def _packed(**options: bool) -> nn.MultiheadAttention:
    packed = nn.MultiheadAttention(12, 3, **{"batch_first": True} | options).eval()
    nn.init.normal_(packed.in_proj_weight)
    if packed.in_proj_bias is not None:
        nn.init.normal_(packed.in_proj_bias)  # torch's own are zeros
    return packed


@pytest.mark.parametrize("masked", [False, True])
def test_unpacked_attention_computes_what_torchs_does(masked: bool) -> None:
    packed, features = _packed(), FEATURES.flatten(2).transpose(1, 2).repeat(1, 1, 3)[..., :12]
    mask = torch.full((24, 24), -torch.inf).triu(1) if masked else None
    expected = packed(features, features, features, need_weights=False, attn_mask=mask)[0]
    unpacked = unpack_attention(nn.Sequential(packed))[0]
    assert isinstance(unpacked, SelfAttention)
    torch.testing.assert_close(unpacked(features, features, features, attn_mask=mask)[0], expected)


@pytest.mark.parametrize(
    "options", [{"batch_first": False}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}]
)
def test_attention_of_another_kind_stays_torchs(options: dict[str, bool]) -> None:
    model = nn.Sequential(_packed(**options))
    assert isinstance(unpack_attention(model)[0], nn.MultiheadAttention)
    assert unpack_attention(model) is not model
