"""Finetuner's functions for artifacts of this project: ``import runtime.finetuner as finetuner``.

``exporters.finetuner`` has the functions that need torch.

Source: the signatures of https://finetuner.jina.ai, version 0.8.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from runtime.array_types import Array, Float32Array
from runtime.artifact.manifest import TowerName
from runtime.artifact.similarity import similarities
from runtime.errors import UsageError
from runtime.inference.embedder import Embedder, Item
from runtime.loading.load import load

SelectModel = Literal["clip-text", "clip-vision"]
_TOWERS: Mapping[str | None, TowerName | None] = {None: None, "clip-text": "text", "clip-vision": "image"}


def get_model(
    artifact: str | os.PathLike[str],
    batch_size: int = 32,
    select_model: SelectModel | None = None,
    device: str | None = None,
) -> Embedder:
    """Load an exported artifact, as :func:`runtime.load` does.

    Args:
        artifact: The artifact's folder. For a run artifact of Finetuner, see ``exporters.finetuner.get_model``.
        batch_size: Ignored, as in Finetuner; :func:`encode` has its own.
        select_model: The tower of a CLIP to load; by default both, which Finetuner does not support.
        device: ``cpu`` or ``cuda``; by default the fastest that works.

    Raises:
        EmbeddingBackbonesError: As for :func:`runtime.load`.
    """
    del batch_size
    if Path(artifact).is_file():
        raise UsageError(
            f"{artifact} is a file, but an artifact is a folder; load a run of Finetuner with "
            "exporters.finetuner.get_model, which needs torch"
        )
    return load(artifact, provider=device or "auto", tower=choose_tower(select_model))


def encode(model: Embedder, data: Iterable[Item], batch_size: int | None = None) -> Float32Array:
    """Embed items, as :meth:`runtime.Embedder.embed` does.

    Args:
        model: A model of :func:`get_model`.
        data: Texts for a text model; paths (or images) for an image model; paths (or point clouds) for a mesh model.
        batch_size: Maximum items per batch; ``None``: batches of similar items. Finetuner has 32, which would put
            texts of all lengths together.

    Returns:
        ``[len(data), output_dim]`` float32.

    Raises:
        EmbeddingBackbonesError: As for :meth:`runtime.Embedder.embed`.
    """
    return model.embed(data, batch_size=batch_size)


def cos_sim(a: Array, b: Array) -> float | Array:
    """Return cosine similarities.

    Args:
        a: ``[dim]`` or ``[rows, dim]``, real numbers.
        b: ``[dim]`` or ``[rows, dim]``, with the same ``dim``.

    Returns:
        A number for two vectors; else ``[rows of a, rows of b]`` float64. NaN for a vector of zeros.

    Raises:
        UsageError: The shapes do not fit, or the values are no real numbers.
    """
    found = similarities(a, b)
    return float(found[0, 0]) if np.ndim(a) == np.ndim(b) == 1 else found


def choose_tower(select_model: str | None) -> TowerName | None:
    """Return the tower for Finetuner's ``select_model``.

    Raises:
        UsageError: Finetuner has no such model.
    """
    if select_model not in _TOWERS:
        raise UsageError(f"select_model is {select_model!r}, it must be 'clip-text', 'clip-vision' or None")
    return _TOWERS[select_model]
