"""The text tower of any library's CLIP-like model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporters.catalogue.options import ExportOptions
from exporters.errors import WeightsError
from exporters.families.tower import TRACED, ExportableTower
from exporters.graph.graph_input import GraphInput
from exporters.samples.texts import TEXTS
from runtime.artifact.manifest import Pooling, Projection, TextPreprocessing, TowerName, Weights
from runtime.inference.embedder import without_truncation_warning
from runtime.preprocess.text import TextPreprocessor

# Texts that tokenizers often handle in their own way, beside those of the gate.
_STRANGE = (
    "snake_case & 'quoted' don't!",
    "Ünïcödé \uff26\uff35\uff2c\uff2c width",
    "<start_of_text> <|endoftext|> </s> <eos>",
    " \t ",
)


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A text encoder as its library built it.

    Attributes:
        encoder: Module to trace: the inputs of ``preprocessing``, in order, to ``[batch, output_dim]``.
        embed: The unmodified model with its library's own tokenizer: a text to ``[output_dim]``.
        tokenize: The library's own tokenizer: a text to the inputs by name, ``[1, tokens]``.
        tokenizer: The same tokenizer for the runtime.
        preprocessing: The same preprocessing for the runtime.
        pooling: Pooling of tokens to one vector.
        projections: Linear layers after the pooling.
        layers: Modules after the encoder in words.
        normalized: Whether the library scales embeddings to unit length.
        library: Name of the library, which gives the reference.
    """

    encoder: nn.Module
    embed: Callable[[str], Tensor]
    tokenize: Callable[[str], Mapping[str, Tensor]]
    tokenizer: Tokenizer
    preprocessing: TextPreprocessing
    pooling: Pooling = field(default_factory=lambda: Pooling(method="model"))
    projections: tuple[Projection, ...] = ()
    layers: tuple[str, ...] = ()
    normalized: bool = False
    library: str


class TextModelTower(ExportableTower):
    """The text tower of a :class:`TextModel`."""

    name: TowerName = "text"

    def __init__(
        self, model: TextModel, weights: Weights, options: ExportOptions, *, architecture: str | None = None
    ) -> None:
        """Build the tower's record.

        Raises:
            WeightsError: The runtime's tokenizer does not give the ids of the library's.
        """
        self._model, self.architecture = model, architecture
        self._preprocessor = self._load_preprocessor()
        self._check_tokens()
        with torch.inference_mode():
            output_dim = len(model.embed(TEXTS[0]))
        super().__init__(
            model.preprocessing,
            output_dim,
            weights,
            options,
            pooling=model.pooling,
            projections=model.projections,
            normalized=model.normalized,
            stated=weights.origin != "random",
            layers=model.layers,
            library=model.library,
        )

    def module(self) -> nn.Module:
        """Return encoder and vector normalisation in one module."""
        return TextFeatures(copy.deepcopy(self._model.encoder), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Return the graph's inputs, with two texts of different length as the example."""
        encoded = self._encode(self.items()[TRACED])
        return [GraphInput(spec=spec, example=encoded[spec.name]) for spec in self.record.inputs]

    def items(self) -> Sequence[str]:
        """Return the texts that ship with the exporters."""
        return TEXTS

    def embed(self, item: str) -> Tensor:
        """Return the unmodified model's embedding of a text, with its library's own tokenizer."""
        return self._model.embed(item)

    def write_files(self, folder: Path) -> None:
        """Write the tokenizer into the artifact."""
        backend = self._model.tokenizer
        backend.no_padding()
        backend.enable_truncation(self._model.preprocessing.max_length)
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=False), "utf-8")

    def _load_preprocessor(self) -> TextPreprocessor:
        with tempfile.TemporaryDirectory() as folder:
            self.write_files(Path(folder))
            return TextPreprocessor(self._model.preprocessing, Path(folder))

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        with without_truncation_warning():
            rows = self._preprocessor.prepare_all(texts)
        usable = [row for row in rows if not isinstance(row, Exception)]
        if len(usable) < len(rows):
            raise WeightsError("the tokenizer finds no token in one of the sample texts, and the model needs one")
        return {name: torch.from_numpy(array) for name, array in self._preprocessor.collate(usable).items()}

    def _check_tokens(self) -> None:
        """Check that the runtime gives the library's ids, for each text alone."""
        for text in (*TEXTS, *_STRANGE):
            ours, theirs = self._encode([text]), self._model.tokenize(text)
            for name, values in ours.items():
                if name not in theirs or not torch.equal(values, theirs[name].to(values.dtype)):
                    raise WeightsError(
                        f"the runtime cannot tokenize as {self._model.library} does: {name} of {text!r:.60} differ; "
                        "export the image tower alone by --tower image"
                    )


class TextFeatures(nn.Module):
    """An encoder with or without a mask, and scaling to unit length if asked for."""

    def __init__(self, encoder: nn.Module, *, unit_length: bool) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder
        self.unit_length = unit_length

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed token ids."""
        embedding: Tensor = self.encoder(*[each for each in (input_ids, attention_mask) if each is not None])
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding
