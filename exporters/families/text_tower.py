"""What every text tower shares: ids and mask, texts, transformers' own tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.families.tower import GraphInput
from exporters.samples.texts import TEXTS
from runtime.artifact.manifest import TextPreprocessing, Tower, TowerName, Weights

Array = np.ndarray[Any, np.dtype[np.float32]]
_TRACED = slice(0, 2)  # two texts of different length, so that neither axis is 1 and the mask is not all ones


class TextTower(ABC):
    """An ``ExportableTower`` of texts, but for the network itself."""

    name: TowerName = "text"

    def __init__(self, record: Tower, weights: Weights, output_dim: int, tokenizer: PreTrainedTokenizerFast) -> None:
        """Keeps what the network's family settled.

        Args:
            record: The tower's record; its preprocessing is that of texts.
            weights: Where the weights came from.
            output_dim: Length of an embedding.
            tokenizer: transformers' own.
        """
        if not isinstance(record.preprocessing, TextPreprocessing):
            raise TypeError(f"a text tower has no preprocessing of {record.preprocessing.kind}")
        self.record = record
        self.weights = weights
        self.output_dim = output_dim
        self._tokenizer = tokenizer
        self._max_length = record.preprocessing.max_length

    @abstractmethod
    def encoder(self) -> nn.Module:
        """Returns what is traced: ids and mask, ``[batch, sequence]`` int64, to ``[batch, output_dim]``."""

    @abstractmethod
    def embed(self, text: str) -> Tensor:
        """Returns what the unmodified model gives for one text, as its library feeds it: ``[output_dim]``."""

    def module(self) -> nn.Module:
        """Returns encoder and normalisation in one."""
        return _Embedding(self.encoder(), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Returns ids and mask, with two texts for an example."""
        encoded = self.encode(list(self.items()[_TRACED]))
        return [GraphInput(spec=spec, example=encoded[spec.name]) for spec in self.record.inputs]

    def items(self) -> Sequence[str]:
        """Returns the texts that ship with the exporters."""
        return TEXTS

    def reference(self) -> Array:
        """Returns what the unmodified model gives for each text alone."""
        with torch.inference_mode():
            vectors = torch.stack([self.embed(text).double() for text in self.items()])
            rows = nn.functional.normalize(vectors, dim=-1) if self.record.normalized else vectors
        array: Array = rows.float().numpy()
        return array

    def write_files(self, folder: Path) -> None:
        """Writes the tokenizer into the artifact."""
        backend = self._tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(self._max_length)
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=False), "utf-8")

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Returns ids and mask of ``texts``, padded to the longest of them and cut to the model's limit."""
        encoded = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class _Embedding(nn.Module):
    """From token ids to one vector."""

    def __init__(self, encoder: nn.Module, *, unit_length: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.unit_length = unit_length

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedding: Tensor = self.encoder(input_ids, attention_mask)
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding
