"""The common part of all text towers: ids and mask, sample texts, and the torch reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.graph.graph_input import GraphInput
from exporters.samples.texts import TEXTS
from runtime.artifact.manifest import TextPreprocessing, Tower, TowerName, Weights

Array = np.ndarray[Any, np.dtype[np.float32]]
_TRACED = slice(0, 2)  # two texts of different length: neither axis is 1, and the mask is not all ones


class TextTower(ABC):
    """An ``ExportableTower`` for texts. Subclasses add the network."""

    name: TowerName = "text"

    def __init__(self, record: Tower, weights: Weights, output_dim: int, tokenizer: PreTrainedTokenizerFast) -> None:
        """Keep the record and the tokenizer.

        Args:
            record: The tower's record, with preprocessing of texts.
            weights: Origin of the weights.
            output_dim: Length of an embedding.
            tokenizer: Tokenizer of transformers.
        """
        if not isinstance(record.preprocessing, TextPreprocessing):
            raise TypeError(f"a text tower has preprocessing of {record.preprocessing.kind}, expected text")
        self.record = record
        self.weights = weights
        self.output_dim = output_dim
        self._tokenizer = tokenizer
        self._max_length = record.preprocessing.max_length

    @abstractmethod
    def encoder(self) -> nn.Module:
        """Return the module to trace: ids and mask, ``[batch, sequence]`` int64, to ``[batch, output_dim]``."""

    @abstractmethod
    def embed(self, text: str) -> Tensor:
        """Return the unmodified model's embedding of one text, with its library's own tokenizer: ``[output_dim]``."""

    def module(self) -> nn.Module:
        """Return encoder and vector normalisation in one module."""
        return TextEmbedding(self.encoder(), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Return ids and mask, with two texts as the example."""
        encoded = self.encode(list(self.items()[_TRACED]))
        return [GraphInput(spec=spec, example=encoded[spec.name]) for spec in self.record.inputs]

    def items(self) -> Sequence[str]:
        """Return the texts that ship with the exporters."""
        return TEXTS

    def reference(self) -> Array:
        """Return the unmodified model's embedding of each text alone."""
        with torch.inference_mode():
            vectors = torch.stack([self.embed(text).double() for text in self.items()])
            rows = nn.functional.normalize(vectors, dim=-1) if self.record.normalized else vectors
        array: Array = rows.float().numpy()
        return array

    def write_files(self, folder: Path) -> None:
        """Write the tokenizer into the artifact."""
        backend = self._tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(self._max_length)
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=False), "utf-8")

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Return ids and mask of ``texts``, padded to the longest text and cut to the model's limit."""
        encoded = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class TextEmbedding(nn.Module):
    """An encoder, and scaling to unit length if asked for."""

    def __init__(self, encoder: nn.Module, *, unit_length: bool) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder
        self.unit_length = unit_length

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed token ids."""
        embedding: Tensor = self.encoder(input_ids, attention_mask)
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding
