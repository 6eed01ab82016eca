"""The text tower of a transformer encoder: pooling, projection and normalisation fused behind it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from exporters.modules.pooling import TokenPool
from exporters.sources.huggingface import TextModel
from exporters.spec import ExportOptions
from exporters.texts import TEXTS
from exporters.towers import GraphInput
from runtime.errors import UsageError
from runtime.manifest import Pooling, TensorSpec, TextPreprocessing, Tower, TowerName

Array = np.ndarray[Any, np.dtype[np.float32]]
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
_TRACED = slice(0, 2)  # two texts of different length, so that neither axis is 1 and the mask is not all ones


class TextTower:
    """A :class:`TextModel` as an ``ExportableTower``."""

    name: TowerName = "text"

    def __init__(self, text: TextModel, options: ExportOptions) -> None:
        """Works out the record; traces and runs nothing yet. The checkpoint itself decides the dimensions.

        Raises:
            UsageError: An option is not for texts.
        """
        if options.image_size is not None or options.input != "uint8":
            raise UsageError("image_size and input are for image backbones")
        layers = text.layers
        pooling = options.pooling or layers.pooling or Pooling(method="mean")
        if pooling.method == "avg":
            raise UsageError("pooling avg is for images; texts take mean, cls, max or gem")
        decided_by_user = options.pooling is not None or options.normalize is not None
        self._text = text
        self.weights = text.weights
        self.output_dim = _output_dim(text)
        preprocessing = TextPreprocessing(max_length=text.max_length, pad_token_id=_pad_token_id(text))
        self.record = Tower(
            graph="text.onnx",
            inputs=preprocessing.graph_inputs(),
            output=TensorSpec(name="embedding", dtype="float32", shape=("batch", self.output_dim)),
            preprocessing=preprocessing,
            pooling=pooling,
            projections=tuple(record for record, _ in layers.projections),
            normalized=layers.normalized if options.normalize is None else options.normalize,
            decided_by="user" if decided_by_user else "checkpoint" if layers.pooling else "default",
        )

    def module(self) -> nn.Module:
        """Returns encoder, pooling, projections and normalisation in one."""
        return _Embedding(_traceable(self._text.model), self.record, self._projections()).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Returns ids and mask, with two texts for an example."""
        encoded = self._encode(list(self.items()[_TRACED]))
        return [GraphInput(spec=spec, example=encoded[spec.name]) for spec in self.record.inputs]

    def items(self) -> Sequence[str]:
        """Returns the texts that ship with the exporters."""
        return TEXTS

    def reference(self) -> Array:
        """Returns what the unmodified encoder gives for each text alone, without padding, pooled in float64."""
        rows = [self._embed_alone(text) for text in self.items()]
        return np.stack(rows).astype(np.float32)

    def write_files(self, folder: Path) -> None:
        """Writes the tokenizer into the artifact."""
        backend = self._text.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(self._text.max_length)
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=False), "utf-8")

    def _projections(self) -> list[nn.Module]:
        layers = [(record.activation, layer) for record, layer in self._text.layers.projections]
        return [module for activation, layer in layers for module in (copy.deepcopy(layer), _ACTIVATIONS[activation]())]

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        encoded = self._text.tokenizer(
            texts, padding=True, truncation=True, max_length=self._text.max_length, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def _embed_alone(self, text: str) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            features = self._text.model(**self._encode([text])).last_hidden_state[0]
            pooled = _pool(features.double().numpy(), self.record.pooling)
            vector = self._project(torch.from_numpy(pooled))
            unit = vector / vector.norm() if self.record.normalized else vector
        row: np.ndarray[Any, Any] = unit.numpy()
        return row

    def _project(self, vector: Tensor) -> Tensor:
        for record, layer in self._text.layers.projections:
            bias = None if layer.bias is None else layer.bias.double()
            vector = _ACTIVATIONS[record.activation]()(nn.functional.linear(vector, layer.weight.double(), bias))
        return vector


class _Embedding(nn.Module):
    """From token ids to one vector."""

    def __init__(self, encoder: nn.Module, record: Tower, projections: list[nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = TokenPool(record.pooling)
        self.project = nn.Sequential(*projections)
        self.unit_length = record.normalized

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        embedding: Tensor = self.project(self.pool(features, attention_mask))
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding


def _traceable(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy whose attention torch can trace.

    T5's default attention ends in a view of strides that torch 2.14 cannot decompose with symbolic sizes
    ("Cannot view a tensor with shape ..."); the eager one computes the same.
    """
    traceable = copy.deepcopy(model)
    if traceable.config.model_type == "t5":
        traceable.set_attn_implementation("eager")
    return traceable


def _pool(features: np.ndarray[Any, Any], pooling: Pooling) -> np.ndarray[Any, Any]:
    """Pools ``[tokens, dim]`` to ``[dim]``."""
    if pooling.method == "cls":
        return np.asarray(features[0])
    if pooling.method == "max":
        return np.asarray(features.max(axis=0))
    if pooling.p is None or pooling.eps is None:
        return np.asarray(features.mean(axis=0))
    return np.asarray((np.maximum(features, pooling.eps) ** pooling.p).mean(axis=0) ** (1 / pooling.p))


def _output_dim(text: TextModel) -> int:
    if text.layers.projections:
        return text.layers.projections[-1][0].out_features
    return int(text.model.config.hidden_size)


def _pad_token_id(text: TextModel) -> int:
    pad = text.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)
