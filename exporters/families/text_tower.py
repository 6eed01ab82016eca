"""The common part of all text towers: the inputs of the graph, sample texts, and the tokenizer."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.errors import WeightsError
from exporters.families.tower import TRACED, ExportableTower
from exporters.graph.graph_input import GraphInput
from exporters.samples.texts import TEXTS
from runtime.artifact.manifest import MAX_TEXT_LENGTH, MIN_TEXT_LENGTH, TextPreprocessing, TowerName
from runtime.preprocess.text import TextPreprocessor

_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions", "position_embedding")


class TextTower(ExportableTower):
    """An ``ExportableTower`` for texts. Subclasses add the network, and set ``tokenizer`` or override ``backend``."""

    name: TowerName = "text"
    tokenizer: PreTrainedTokenizerFast

    @property
    def preprocessing(self) -> TextPreprocessing:
        """Preprocessing by the runtime, from the record."""
        return cast(TextPreprocessing, self.record.preprocessing)

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the ``tokenizers`` library, which the runtime uses."""
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        return backend

    @cached_property
    def preprocessor(self) -> TextPreprocessor:
        """The runtime's own preprocessing of texts."""
        with tempfile.TemporaryDirectory() as folder:
            self.write_files(Path(folder))
            return TextPreprocessor(self.preprocessing, Path(folder))

    @abstractmethod
    def encoder(self) -> nn.Module:
        """Return the module to trace: the inputs, each ``[batch, sequence]`` int64, to ``[batch, output_dim]``."""

    def module(self) -> nn.Module:
        """Return encoder and vector normalisation in one module."""
        return TextEmbedding(self.encoder(), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Return the graph's inputs for two texts of different length: the mask is not all ones."""
        arrays = self.preprocessor.collate([self.preprocessor.prepare(text) for text in self.items()[TRACED]])
        return [GraphInput(spec=spec, example=torch.from_numpy(arrays[spec.name])) for spec in self.record.inputs]

    def items(self) -> Sequence[str]:
        """Return the texts that ship with the exporters."""
        return TEXTS

    def tokenizer_json(self) -> str:
        """Return the tokenizer for the artifact, without its limit."""
        return self.backend.to_str()

    def write_files(self, folder: Path) -> None:
        """Write the tokenizer into the artifact.

        Raises:
            WeightsError: The tokenizer has a setting that its file cannot hold.
        """
        if self.backend.encode_special_tokens:
            raise WeightsError(
                "the tokenizer reads special tokens in a text as plain text (split_special_tokens). A tokenizer.json "
                "cannot hold this setting; remove the setting from tokenizer_config.json, and export the model again"
            )
        backend = Tokenizer.from_str(self.tokenizer_json())  # a copy: the library's own stays as it is
        backend.no_padding()
        backend.enable_truncation(self.preprocessing.max_length, direction=self.preprocessing.truncation_side)
        (folder / self.preprocessing.tokenizer).write_text(backend.to_str(pretty=False), "utf-8")


class TextEmbedding(nn.Module):
    """An encoder, and scaling to unit length if asked for."""

    def __init__(self, encoder: nn.Module, *, unit_length: bool) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder
        self.unit_length = unit_length

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        third: Tensor | None = None,
        fourth: Tensor | None = None,
    ) -> Tensor:
        """Embed token ids. torch cannot trace ``*inputs``, so each input has a place of its own."""
        further = [tensor for tensor in (attention_mask, third, fourth) if tensor is not None]
        embedding: Tensor = self.encoder(input_ids, *further)
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding


def count_positions(encoder: nn.Module) -> int | None:
    """Return the number of tokens that learned positions allow; ``None`` for positions without a table.

    Tables with a padding index begin behind it: RoBERTa's 514 positions take 512 tokens.
    """
    sizes = [
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in encoder.named_modules()
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES
    ]
    return min(sizes, default=None)


def find_limit(stated: int | None, positions: int | None) -> int:
    """Return the largest number of tokens: the smaller of two limits, or ``MAX_TEXT_LENGTH`` without either.

    Args:
        stated: The limit that the checkpoint states. transformers writes 1e30 for none.
        positions: The number of positions, from :func:`count_positions`.

    Raises:
        WeightsError: No text fits within the limit.
    """
    limit = min(int(limit) for limit in (stated, positions, MAX_TEXT_LENGTH) if limit is not None)
    if limit < MIN_TEXT_LENGTH:
        raise WeightsError(
            f"the checkpoint states a limit of {limit} tokens, which leaves no room for a text; correct max_seq_length "
            "in its sentence_bert_config.json, or model_max_length in its tokenizer_config.json"
        )
    return limit
