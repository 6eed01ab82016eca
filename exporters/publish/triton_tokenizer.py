"""Tokenize texts in Triton's python backend, as ``tokenizer.json`` and ``settings.json`` beside this file say.

The layout ``triton`` copies this file; it imports nothing of this project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer


class TextInputs:
    """Makes the inputs of a text graph."""

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer and its settings."""
        settings: dict[str, Any] = json.loads((folder / "settings.json").read_text("utf-8"))
        self.names: list[str] = settings["inputs"]
        self._prompt: str = settings["prompt"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(settings["max_length"], direction=settings["truncation_side"])
        length = settings["max_length"] if settings["fixed_length"] else None
        self._tokenizer.enable_padding(pad_id=settings["pad_token_id"], pad_token="", length=length)

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the inputs by name, ``[texts, tokens]`` int64. All texts are padded to the longest."""
        encodings = self._tokenizer.encode_batch([self._prompt + text for text in texts])
        arrays = {
            "input_ids": [each.ids for each in encodings],
            "attention_mask": [each.attention_mask for each in encodings],
            "token_type_ids": [each.type_ids for each in encodings],
        }
        return {name: np.array(arrays[name], np.int64) for name in self.names}


class TritonPythonModel:
    """The model that Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer from the folder of this version."""
        self._inputs = TextInputs(Path(args["model_repository"], args["model_version"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize all requests together, so that the graph can run them in one batch."""
        import triton_python_backend_utils as backend

        texts = [backend.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1) for request in requests]
        inputs = self._inputs([text.decode() for each in texts for text in each])
        ends = np.cumsum([len(each) for each in texts])
        parts = {name: np.split(array, ends[:-1]) for name, array in inputs.items()}
        return [
            backend.InferenceResponse(
                output_tensors=[backend.Tensor(name, parts[name][index]) for name in self._inputs.names]
            )
            for index in range(len(requests))
        ]
