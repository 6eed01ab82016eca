"""The text tower of any library's CLIP-like model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporters.catalogue.options import ExportOptions
from exporters.errors import WeightsError
from exporters.families.text_tower import TextTower
from exporters.modules.sharing import copy_sharing_tensors
from exporters.samples.texts import TEXTS
from exporters.weights.state_dict import unwrap
from runtime.artifact.manifest import Pooling, Projection, TextPreprocessing, Weights

# Texts that tokenizers often handle in their own way, beside those of the gate.
_STRANGE = (
    "snake_case & 'quoted' don't!",
    "Ünïcödé \uff26\uff35\uff2c\uff2c width",
    "<start_of_text> <|endoftext|> </s> <eos>",
    "ΟΔΟΣ ΑΘΗΝΑΣ Σ",
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


class TextModelTower(TextTower):
    """The text tower of a :class:`TextModel`."""

    def __init__(
        self, model: TextModel, weights: Weights, options: ExportOptions, *, architecture: str | None = None
    ) -> None:
        """Build the tower's record.

        Raises:
            WeightsError: The runtime's tokenizer does not give the ids of the library's.
        """
        self._model, self.architecture = model, architecture
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
        self._check_tokens()

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the ``tokenizers`` library that equals the library's."""
        return self._model.tokenizer

    def encoder(self) -> nn.Module:
        """Return encoder and projection."""
        return copy_sharing_tensors(self._model.encoder)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder by its library's names."""
        return dict(unwrap(self._model.encoder.state_dict()))

    def embed(self, item: str) -> Tensor:
        """Return the unmodified model's embedding of a text, with its library's own tokenizer."""
        return self._model.embed(item)

    def _check_tokens(self) -> None:
        """Check that the runtime gives the library's ids, for each text alone."""
        for text in (*TEXTS, *_STRANGE):
            ours = self.preprocessor.collate([self.preprocessor.prepare(text)])
            theirs = self._model.tokenize(text)
            for name, values in ours.items():
                if name not in theirs or not np.array_equal(values, theirs[name].numpy()):
                    raise WeightsError(
                        f"the runtime cannot tokenize as {self._model.library} does: {name} of {text!r:.60} differ; "
                        "export the image tower alone by --tower image"
                    )
