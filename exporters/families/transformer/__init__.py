"""Text encoders of transformers and sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporters.catalogue.spec import HuggingFaceSource
from exporters.catalogue.weights_ref import ModelWeights
from exporters.families.family import Family, LoadRequest

if TYPE_CHECKING:
    from exporters.families.tower import ExportableTower
    from exporters.weights.finetuner_run import RunModel


def _load(request: LoadRequest[HuggingFaceSource], weights: ModelWeights) -> list[ExportableTower]:
    from exporters.families.transformer.huggingface import load_transformer
    from exporters.families.transformer.tower import TransformerTower

    tokenizer = request.options.tokenizer_folder
    transformer = load_transformer(
        request.source, weights, tokenizer=tokenizer, any_architecture=request.any_architecture
    )
    return [TransformerTower(transformer, request.options)]


def _load_run(request: LoadRequest[HuggingFaceSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    from exporters.families.from_run import only_model
    from exporters.families.transformer.huggingface import load_transformer_run
    from exporters.families.transformer.tower import TransformerTower

    transformer = load_transformer_run(request.source, only_model(models), request.options.tokenizer_folder)
    return [TransformerTower(transformer, request.options)]


FAMILY = Family(
    sources=(HuggingFaceSource,), options=frozenset({"pooling", "tokenizer"}), load=_load, load_run=_load_run
)
