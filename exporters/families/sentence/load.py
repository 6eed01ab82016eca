"""Text encoders that sentence-transformers loads: its own folders, those of transformers, and adapters."""

from __future__ import annotations

from dataclasses import replace

from exporters.families.family import FolderRequest
from exporters.families.sentence.reader import read_model
from exporters.families.sentence.tower import SentenceTower
from exporters.families.tower import ExportableTower
from exporters.weights.state_dict import record_random


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load the text encoder in a folder, and return its tower.

    Raises:
        WeightsError: The library cannot load it, or a graph cannot hold it.
        UsageError: An option does not fit the model.
    """
    model = read_model(request)
    weights = request.weights
    if weights.seed is not None:
        weights = replace(weights, sha256=record_random(model, weights.seed).sha256)
    weights = replace(weights, remote_code=request.options.trust_remote_code)
    return [SentenceTower(model, weights, request.options, source=str(request.path))]
