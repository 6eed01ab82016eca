"""Tiny image encoders, in folders that their own libraries write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn

from exporters.weights.random_init import calibrate_batch_norms

SIDE = 64
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": SIDE,
    "patch_size": 16,
}
_STAGES: dict[str, Any] = {"depths": [1, 1, 1], "hidden_sizes": [8, 16, 24], "num_stages": 3}
_SWIN: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
}
_TIMM: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "model_args": {"img_size": SIDE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4},
    "pretrained_cfg": {"input_size": (3, SIDE, SIDE), "crop_pct": 0.9, "interpolation": "bicubic"},
}
# A model of transformers, its processor, and the settings of the processor. ``size`` is the model's.
FAMILIES: Mapping[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(**SMALL)), "ViTImageProcessorPil", {}),
    "vit classifier": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**SMALL)), "ViTImageProcessorPil", {}),
    "deit": (lambda: hf.DeiTModel(hf.DeiTConfig(**SMALL)), "DeiTImageProcessorPil", {"crop": True}),
    "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)), "BitImageProcessorPil", {"crop": True}),
    "dinov3": (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL)), "DINOv3ViTImageProcessor", {}),
    "convnext": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(image_size=SIDE, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])),
        "ConvNextImageProcessorPil",
        {"size": {"shortest_edge": SIDE}},
    ),
    "swin": (lambda: hf.SwinModel(hf.SwinConfig(**_SWIN)), "ViTImageProcessorPil", {}),
    "swinv2": (lambda: hf.Swinv2Model(hf.Swinv2Config(**_SWIN)), "ViTImageProcessorPil", {}),
    "beit": (lambda: hf.BeitModel(hf.BeitConfig(**SMALL)), "BeitImageProcessorPil", {"crop": True}),
    "resnet": (
        lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, depths=[1, 1, 1], hidden_sizes=[16, 24, 32])),
        "ConvNextImageProcessorPil",
        {"size": {"shortest_edge": SIDE}},
    ),
    "mobilevit": (
        lambda: hf.MobileViTModel(
            hf.MobileViTConfig(image_size=SIDE, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 48])
        ),
        "MobileViTImageProcessorPil",
        {},
    ),
    "segformer": (
        lambda: hf.SegformerForImageClassification(
            hf.SegformerConfig(hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], depths=[1, 1, 1, 1])
        ),
        "SegformerImageProcessorPil",
        {},
    ),
    "clip vision": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**SMALL, projection_dim=24)),
        "CLIPImageProcessorPil",
        {"crop": True},
    ),
    "cvt classifier": (
        lambda: hf.CvtForImageClassification(hf.CvtConfig(embed_dim=[8, 12, 16], depth=[1, 2, 3], num_heads=[1, 2, 2])),
        "ConvNextImageProcessorPil",
        {"size": {"shortest_edge": SIDE}},
    ),
    "siglip vision": (
        lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SMALL)),
        "SiglipImageProcessorPil",
        {},
    ),
    "timm in transformers": (
        lambda: hf.TimmWrapperModel(hf.TimmWrapperConfig.from_dict(_TIMM)),
        "TimmWrapperImageProcessor",
        {"bare": True, "pretrained_cfg": _TIMM["pretrained_cfg"]},
    ),
}


def save_folder(name: str, folder: Path, **changes: Any) -> Path:
    """Let transformers save a tiny model and its processor."""
    build, processor, settings = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = build()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    model.eval()
    make_processor(processor, settings | changes).save_pretrained(folder)
    inputs = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    calibrate_batch_norms(model, inputs)
    model.save_pretrained(folder)
    return folder


def make_processor(name: str, settings: Mapping[str, Any]) -> Any:
    settings = dict(settings)
    sizes: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}}
    if settings.pop("bare", False):
        sizes = {}
    if settings.pop("crop", False):
        sizes = {"size": {"shortest_edge": SIDE + 8}, "crop_size": {"height": SIDE, "width": SIDE}}
        sizes |= {"do_center_crop": True}
    module = getattr(hf, name, None) or _find(name)
    return module(**sizes | settings)


def _find(name: str) -> Any:
    folder = name.removesuffix("ImageProcessorPil").lower()
    return getattr(import_module(f"transformers.models.{folder}.image_processing_pil_{folder}"), name)
