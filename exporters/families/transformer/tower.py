"""The text tower of a transformer encoder, with pooling and projections in the graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from exporters.catalogue.options import ExportOptions
from exporters.families.text_tower import TextTower
from exporters.families.transformer.sentence_layers import SentenceLayers
from exporters.modules.pooling import TokenPool
from exporters.modules.projection import project_exactly, stack_projections
from runtime.artifact.manifest import Pooling, TensorSpec, TextPreprocessing, Tower, Weights
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A text encoder as its library built it.

    Attributes:
        model: The unmodified encoder in evaluation mode: ids and mask to ``last_hidden_state``.
        tokenizer: Tokenizer of transformers.
        layers: Layers after the encoder, as the checkpoint states them.
        max_length: Largest number of tokens, special ones included.
        weights: Origin of the weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    layers: SentenceLayers
    max_length: int
    weights: Weights


class TransformerTower(TextTower):
    """The text tower of a :class:`Transformer`."""

    def __init__(self, transformer: Transformer, options: ExportOptions) -> None:
        """Build the tower's record. Nothing is traced or run. The checkpoint decides the dimensions.

        Raises:
            UsageError: The pooling is not one for texts.
        """
        self._model = transformer.model
        self._layers = transformer.layers
        record = _record(transformer, options)
        super().__init__(record, transformer.weights, _output_dim(transformer), transformer.tokenizer)

    def encoder(self) -> nn.Module:
        """Return encoder, pooling and projections in one module."""
        return PooledEncoder(_traceable(self._model), self.record.pooling, stack_projections(self._layers.projections))

    def embed(self, text: str) -> Tensor:
        """Return the unmodified encoder's embedding of a text without padding, pooled in float64."""
        features = self._model(**self.encode([text])).last_hidden_state[0]
        pooled = _pool(features.double().numpy(), self.record.pooling)
        return project_exactly(self._layers.projections, torch.from_numpy(pooled))


class PooledEncoder(nn.Module):
    """An encoder with pooling and projections."""

    def __init__(self, encoder: nn.Module, pooling: Pooling, project: nn.Module) -> None:
        """Keep the encoder and the projections, and build the pooling."""
        super().__init__()
        self.encoder = encoder
        self.pool = TokenPool(pooling)
        self.project = project

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed: ids and mask ``[batch, sequence]`` int64 to ``[batch, output_dim]``."""
        features = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        embedding: Tensor = self.project(self.pool(features, attention_mask))
        return embedding


def _record(transformer: Transformer, options: ExportOptions) -> Tower:
    layers = transformer.layers
    pooling = options.pooling or layers.pooling or Pooling(method="mean")
    if pooling.method not in ("mean", "cls", "max", "gem"):
        raise UsageError(f"pooling {pooling.method} is not for texts, expected mean, cls, max or gem")
    decided_by_user = options.pooling is not None or options.normalize is not None
    preprocessing = TextPreprocessing(
        max_length=transformer.max_length, pad_token_id=transformer.tokenizer.pad_token_id or 0
    )
    return Tower(
        graph="text.onnx",
        inputs=preprocessing.graph_inputs(),
        output=TensorSpec(name="embedding", dtype="float32", shape=("batch", _output_dim(transformer))),
        preprocessing=preprocessing,
        pooling=pooling,
        projections=tuple(record for record, _ in layers.projections),
        normalized=layers.normalized if options.normalize is None else options.normalize,
        decided_by="user" if decided_by_user else "checkpoint" if layers.pooling else "default",
    )


def _traceable(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose attention torch can trace.

    T5's default attention ends in a strided view that torch 2.14 cannot decompose with symbolic sizes
    ("Cannot view a tensor with shape ..."). The eager attention computes the same.
    """
    traceable = copy.deepcopy(model)
    if traceable.config.model_type == "t5":
        traceable.set_attn_implementation("eager")
    return traceable


def _pool(features: np.ndarray[Any, Any], pooling: Pooling) -> np.ndarray[Any, Any]:
    """Pool ``[tokens, dim]`` to ``[dim]``."""
    if pooling.method == "cls":
        return np.asarray(features[0])
    if pooling.method == "max":
        return np.asarray(features.max(axis=0))
    if pooling.p is None or pooling.eps is None:
        return np.asarray(features.mean(axis=0))
    return np.asarray((np.maximum(features, pooling.eps) ** pooling.p).mean(axis=0) ** (1 / pooling.p))


def _output_dim(transformer: Transformer) -> int:
    if transformer.layers.projections:
        return transformer.layers.projections[-1][0].out_features
    return int(transformer.model.config.hidden_size)
