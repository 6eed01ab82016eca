"""The functions that Finetuner's users know, over artifacts of this project: ``import runtime.finetuner as finetuner``.

Source of the signatures: https://finetuner.jina.ai, version 0.8. ``exporters.finetuner`` has those that need torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runtime.artifact.manifest import TowerName
from runtime.artifact.parity import cosine_similarities
from runtime.errors import UsageError
from runtime.inference.embedder import Embedder, Item
from runtime.loading.load import load

SelectModel = Literal["clip-text", "clip-vision"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]
_TOWERS: Mapping[str | None, TowerName | None] = {None: None, "clip-text": "text", "clip-vision": "image"}


def get_model(
    artifact: str | os.PathLike[str],
    batch_size: int = 32,
    select_model: SelectModel | None = None,
    device: str | None = None,
) -> Embedder:
    """Loads an exported artifact: :func:`runtime.load` by Finetuner's words.

    Args:
        artifact: The artifact's folder. For a run artifact of Finetuner itself see ``exporters.finetuner.get_model``.
        batch_size: Of no effect, as in Finetuner: :func:`encode` has its own.
        select_model: The half of a CLIP to load; by default both, which Finetuner could not.
        device: ``cpu`` or ``cuda``; by default the fastest that works.

    Raises:
        EmbeddingBackbonesError: Whatever :func:`runtime.load` raises.
    """
    del batch_size
    if Path(artifact).is_file():
        raise UsageError(
            f"{artifact} is a file, and an artifact is a folder; a run of Finetuner itself is taken by "
            "exporters.finetuner.get_model, where torch is"
        )
    return load(artifact, provider=device or "auto", tower=choose_tower(select_model))


def encode(model: Embedder, data: Iterable[Item], batch_size: int = 32) -> Vectors:
    """Embeds items: :meth:`runtime.Embedder.embed` by Finetuner's words.

    Args:
        model: What :func:`get_model` returned.
        data: Texts for a text model; paths (or images) for an image model; paths (or point clouds) for a mesh model.
        batch_size: Items that go through the graph together.

    Returns:
        ``[len(data), output_dim]`` float32.

    Raises:
        EmbeddingBackbonesError: Whatever :meth:`runtime.Embedder.embed` raises.
    """
    return model.embed(data, batch_size=batch_size)


def cos_sim(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float | np.ndarray[Any, Any]:
    """Returns cosine similarities.

    Args:
        a: ``[dim]`` or ``[rows, dim]``, real numbers.
        b: The same, with the same ``dim``.

    Returns:
        A number for two vectors; else ``[rows of a, rows of b]`` float64. NaN where a vector is all zeros.

    Raises:
        UsageError: They are of another shape.
    """
    a, b = np.asarray(a), np.asarray(b)
    if not (a.ndim in (1, 2) and b.ndim in (1, 2) and a.shape[-1] == b.shape[-1]):
        raise UsageError(f"cos_sim takes [dim] or [rows, dim], not {list(a.shape)} and {list(b.shape)}")
    similarities = cosine_similarities(np.atleast_2d(a), np.atleast_2d(b))
    return float(similarities[0, 0]) if a.ndim == b.ndim == 1 else similarities


def choose_tower(select_model: str | None) -> TowerName | None:
    """Returns the tower that Finetuner called ``select_model``.

    Raises:
        UsageError: It called none so.
    """
    if select_model not in _TOWERS:
        raise UsageError(f"select_model is {select_model!r}, it must be 'clip-text', 'clip-vision' or None")
    return _TOWERS[select_model]
