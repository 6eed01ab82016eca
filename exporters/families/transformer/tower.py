"""The text tower of a transformer encoder, with pooling and projections in the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from exporters.catalogue.options import ExportOptions
from exporters.families.text_tower import TextTower
from exporters.families.transformer.sentence_layers import SentenceLayers
from exporters.modules.pooling import TokenPool
from exporters.modules.projection import project_exactly, stack_projections
from exporters.modules.sharing import copy_sharing_tensors
from runtime.array_types import Array
from runtime.artifact.manifest import Pooling, TextPreprocessing, Weights
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A text encoder as its library built it, with the layers after it as the checkpoint states them."""

    model: PreTrainedModel  # unmodified, in evaluation mode: ids and mask to `last_hidden_state`
    tokenizer: PreTrainedTokenizerFast
    layers: SentenceLayers
    max_length: int  # tokens, special ones included
    weights: Weights


class TransformerTower(TextTower):
    """The text tower of a :class:`Transformer`."""

    def __init__(self, transformer: Transformer, options: ExportOptions) -> None:
        """Build the tower's record. The checkpoint decides the dimensions.

        Raises:
            UsageError: The pooling is not one for texts.
        """
        layers, model, tokenizer = transformer.layers, transformer.model, transformer.tokenizer
        pooling = options.pooling or layers.pooling or Pooling(method="mean")
        if pooling.method not in ("mean", "cls", "max", "gem"):
            raise UsageError(f"pooling {pooling.method} is not for texts, expected mean, cls, max or gem")
        limit = options.max_length or transformer.max_length
        if limit > transformer.max_length:
            raise UsageError(f"--max-length {limit} is more than the {transformer.max_length} tokens of the model")
        self._model, self._layers, self.tokenizer = model, layers.projections, tokenizer
        self.similarity_function = layers.similarity_function
        super().__init__(
            TextPreprocessing(max_length=limit, pad_token_id=tokenizer.pad_token_id or 0),
            layers.projections[-1][0].out_features if layers.projections else int(model.config.hidden_size),
            transformer.weights,
            options,
            pooling=pooling,
            projections=tuple(record for record, _ in layers.projections),
            normalized=layers.normalized,
            stated=layers.pooling is not None,
        )

    def encoder(self) -> nn.Module:
        """Return encoder, pooling and projections in one module."""
        return PooledEncoder(_traceable(self._model), self.record.pooling, stack_projections(self._layers))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of a SentenceTransformer: the encoder, the pooling at 1, and the linear layers."""
        layers = nn.ModuleList(layer for _, layer in self._layers)
        tensors = {f"0.model.{name}": value for name, value in self._model.state_dict().items()}
        for index, layer in enumerate(layers, start=2):
            tensors |= {f"{index}.linear.{name}": value for name, value in layer.state_dict().items()}
        return tensors

    def embed(self, item: str) -> Tensor:
        """Return the unmodified encoder's embedding of a text without padding, pooled in float64."""
        limit = self.preprocessing.max_length
        encoded = self.tokenizer(item, truncation=True, max_length=limit, return_tensors="pt")
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        features = self._model(**inputs).last_hidden_state[0]
        pooled = _pool(features.double().numpy(), self.record.pooling)
        return project_exactly(self._layers, torch.from_numpy(pooled))


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


def _traceable(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose attention torch can trace. It shares the tensors.

    T5's default attention ends in a strided view that torch 2.14 cannot decompose with symbolic sizes
    ("Cannot view a tensor with shape ..."). The eager attention computes the same.
    """
    traceable = copy_sharing_tensors(model)
    if traceable.config.model_type == "t5":
        traceable.set_attn_implementation("eager")
    return traceable


def _pool(features: Array, pooling: Pooling) -> Array:
    """Pool ``[tokens, dim]`` to ``[dim]``."""
    if pooling.method == "cls":
        return np.asarray(features[0])
    if pooling.method == "max":
        return np.asarray(features.max(axis=0))
    if pooling.p is None or pooling.eps is None:
        return np.asarray(features.mean(axis=0))
    return np.asarray((np.maximum(features, pooling.eps) ** pooling.p).mean(axis=0) ** (1 / pooling.p))
