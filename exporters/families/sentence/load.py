"""Text encoders that sentence-transformers loads: its own folders, those of transformers, and adapters."""

from __future__ import annotations

from dataclasses import replace

from exporters.families.family import FolderRequest
from exporters.families.sentence.adapter import describe_adapter, is_adapter
from exporters.families.sentence.reader import read_model
from exporters.families.sentence.tower import SentenceTower
from exporters.families.tower import ExportableTower
from exporters.weights.remote_code import find_code
from exporters.weights.state_dict import complete_record


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load the text encoder in a folder, and return its tower.

    Raises:
        WeightsError: The library cannot load it, or a graph cannot hold it.
        UsageError: An option does not fit the model.
    """
    folder, model = request.path, read_model(request)
    weights, adapter = complete_record(request.weights, model), is_adapter(folder)
    if adapter:
        weights = describe_adapter(folder, model, weights)
    weights = replace(weights, remote_code=bool(find_code(folder)))  # it was run, or the reader had refused it
    stated = (folder / "modules.json").is_file()
    return [SentenceTower(model, weights, request.options, source=str(folder), stated=stated, adapter=adapter)]
