"""The few inputs of ``similarity`` and ``search``: the items of command-line words, and their labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UsageError
from runtime.preprocess.files import looks_like_image_path

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder

_LABEL_LENGTH = 24  # characters of a text in its label


def as_items(model: Embedder, inputs: Sequence[str]) -> Sequence[str | Path]:
    """Return ``inputs`` as items for ``model``. With two towers, an existing file becomes a path.

    Raises:
        UsageError: With two towers, an input looks like the path of an image that does not exist.
    """
    if len(model.towers) == 1:
        return inputs
    files = {word for word in inputs if os.path.isfile(word)}  # noqa: PTH113  Path.is_file raises for long texts
    missing = [word for word in inputs if looks_like_image_path(word) and word not in files]
    if missing:
        raise UsageError(f"there is no file {missing[0]}; if it is a text, add --tower text")
    return [Path(word) if word in files else word for word in inputs]


def make_labels(model: Embedder, items: Sequence[str | Path]) -> list[str]:
    """Return a short label for each item: the name of a file, or the beginning of a text.

    If files share a name, their labels include the folder. Labels that are still equal get a number from the second on.
    """
    labels = [_label(model, item) for item in items]
    if len(set(labels)) < len(labels) and "text" not in model.towers:
        shared = os.path.commonpath([Path(item).absolute().parent for item in items])
        labels = [os.path.relpath(item, shared) for item in items]
    return [
        label if label not in labels[:index] else f"{label} ({labels[:index].count(label) + 1})"
        for index, label in enumerate(labels)
    ]


def _label(model: Embedder, item: str | Path) -> str:
    if isinstance(item, str) and "text" in model.towers:
        return " ".join(item.split())[:_LABEL_LENGTH] or '""'
    return Path(item).stem
