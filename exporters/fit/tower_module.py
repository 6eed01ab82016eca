"""The towers of a model as the first module of a SentenceTransformer, so that its trainer trains images and meshes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule
from torch import nn

from exporters.families.tower import ExportableTower
from runtime.artifact.manifest import TowerName
from runtime.inference.tower import Preprocessor, build_preprocessor
from runtime.preprocess.item import UnusableItemError

# The trainer finds the columns of a batch by these names of their tensors, and knows none for meshes.
_INPUTS: Mapping[TowerName, str] = {"text": "input_ids", "image": "pixel_values", "mesh": "input_values"}


class TowerModule(InputModule):
    """The modules that become the graphs, with the runtime's own preprocessing. They share the model's tensors.

    A text is a string. Any other item is a dict from the name of its tower to its path.
    """

    def __init__(self, towers: Sequence[ExportableTower], *, fixed_statistics: bool) -> None:
        """Build the modules. ``fixed_statistics`` keeps the mean and variance of every batch norm as they are."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.networks = nn.ModuleDict({tower.name: tower.module() for tower in towers})
        self.output_dim = towers[0].output_dim
        self._fixed_statistics = fixed_statistics
        self._buffers_of_model = dict(self.networks.named_buffers())
        self._names = {tower.name: [spec.name for spec in tower.record.inputs] for tower in towers}
        self._preprocessors: dict[TowerName, Preprocessor] = {}
        for tower in towers:
            with tempfile.TemporaryDirectory() as folder:
                tower.write_files(Path(folder))
                self._preprocessors[tower.name] = build_preprocessor(tower.record.preprocessing, Path(folder), 1)

    @property
    def modalities(self) -> list[Any]:
        """The kinds of items."""
        return list(self.networks)

    @property
    def prepare(self) -> dict[TowerName, Callable[[str], object]]:
        """For each tower, a function that raises an :class:`UnusableItemError` for a bad item."""
        return {name: partial(self._prepare, name) for name in self._preprocessors}

    def _prepare(self, name: TowerName, item: str) -> object:
        row = self._preprocessors[name].prepare_all([item])[0]
        if isinstance(row, UnusableItemError):
            raise row
        return row

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return the tensors of a batch of one kind of items. Texts get the default prompt of the model."""
        del prompt, kwargs
        name: Any = "text" if isinstance(inputs[0], str) else next(iter(inputs[0]))
        items = [item if isinstance(item, str) else item[name] for item in inputs]
        rows = self._preprocessors[name].prepare_all(items)
        for row in rows:
            if isinstance(row, UnusableItemError):  # the file has changed since the data was checked
                raise row
        arrays = self._preprocessors[name].collate(rows)
        tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
        return tensors if name == "text" else {_INPUTS[name]: next(iter(tensors.values()))}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed a batch."""
        del kwargs
        name = next(name for name, key in _INPUTS.items() if key in features)
        keys = self._names[name] if name == "text" else [_INPUTS[name]]
        features["sentence_embedding"] = self.networks[name](*(features[key] for key in keys))
        return features

    def get_embedding_dimension(self) -> int:
        """Return the length of an embedding."""
        return self.output_dim

    def train(self, mode: bool = True) -> TowerModule:
        """Set the mode of training, but for batch norms whose statistics are fixed."""
        super().train(mode)
        for module in self.modules():
            if self._fixed_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
                module.eval()
        return self

    def return_to_model(self) -> None:
        """Give the values of parameters and buffers back to the model on the CPU: a move to a GPU copies buffers."""
        self.cpu()
        for name, buffer in self.networks.named_buffers():
            self._buffers_of_model[name].data.copy_(buffer)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the tensors. They are loaded by the trainer, into a module that exists."""
        del args, kwargs
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
