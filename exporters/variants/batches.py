"""Turn calibration items into batches of a graph's inputs, and add extra batches that widen the ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporters.calibration.activations import Batches
from exporters.calibration.dataset import CalibrationDataset
from exporters.samples.photo_variations import vary_exposure
from exporters.samples.random_words import random_texts
from runtime.artifact.manifest import ImagePreprocessing, Preprocessing, TextPreprocessing, TowerName
from runtime.artifact.variants import Calibration
from runtime.errors import UsageError
from runtime.inference.batching import BatchLimit
from runtime.inference.tower import LoadedTower, Row, plan_row_batches, row_cost
from runtime.preprocess.image import load_image, pixel_values, resize_and_crop
from runtime.preprocess.item import UnusableItemError

# Limits of a batch: items, and tokens or pixels. The calibrator keeps every tensor of a batch: gigabytes for eight
# texts of 512 tokens, or for one image of 600 x 600 in EfficientNet-B7.
_BATCH_SIZE = 8
_BUDGETS: Mapping[TowerName, int | None] = {"text": 1024, "image": _BATCH_SIZE * 224 * 224, "mesh": None}
# Texts of random words per real text. MiniLM's int8 on "a photo of a ...": one changed little, four gave 0.998.
_RANDOM_TEXTS = 4


@dataclass(frozen=True, kw_only=True)
class CalibrationBatches:
    """Batches of a graph's inputs for calibration, and their record in the manifest.

    The extra batches widen the activation ranges and are not used to measure accuracy. For int8, every second one of
    the other batches sets the ranges, and the rest choose the nodes that stay in float32.
    """

    batches: Batches
    extra_batches: Batches
    record: Calibration

    @property
    def every_batch(self) -> Batches:
        """All batches."""
        return [*self.batches, *self.extra_batches]


def make_calibration_batches(
    folder: Path, preprocessing: Preprocessing, tower: LoadedTower, dataset: CalibrationDataset
) -> CalibrationBatches:
    """Preprocess the calibration half of ``dataset`` and the extra items derived from it.

    The artifact ``folder`` has the tokenizer of a text tower. The record has no method.

    Raises:
        UsageError: An item cannot be embedded.
    """
    rows, note = prepare_items(tower.prepare, dataset.calibration, dataset.source), ""
    extra_rows: Sequence[Row] = []
    if isinstance(preprocessing, TextPreprocessing):
        texts = random_texts(folder / preprocessing.tokenizer, _RANDOM_TEXTS * len(dataset.calibration))
        extra_rows = prepare_items(tower.prepare, texts, dataset.source)
        note = f" and {len(texts)} texts of random words"
    elif isinstance(preprocessing, ImagePreprocessing):
        images = (load_image(item, preprocessing.alpha) for item in dataset.calibration)
        varied = vary_exposure([resize_and_crop(image, preprocessing) for image in images])
        in_graph = preprocessing.arithmetic == "graph"
        extra_rows = varied if in_graph else [pixel_values(image, preprocessing) for image in varied]
        note = ", each also with another exposure or other colours"
    batches, extra_batches = (_collate(tower, each, preprocessing.kind) for each in (rows, extra_rows))
    source, sha256 = dataset.source + note, _digest([*batches, *extra_batches])
    record = Calibration(source=source, items=len(dataset.calibration), sha256=sha256, method=None)
    return CalibrationBatches(batches=batches, extra_batches=extra_batches, record=record)


def prepare_items(
    prepare: Callable[[Sequence[Any]], Sequence[Row | UnusableItemError]], items: Sequence[Any], source: str
) -> list[Row]:
    """Return one row of the graph's input per item, as ``prepare`` makes it.

    Raises:
        UsageError: An item cannot be embedded.
    """
    rows: list[Row] = []
    for item, row in zip(items, prepare(items), strict=True):
        if isinstance(row, UnusableItemError):
            raise UsageError(f"{source}: {item} cannot be used for calibration: {row}; remove it")
        rows.append(row)
    return rows


def _collate(tower: LoadedTower, rows: Sequence[Row], kind: TowerName) -> Batches:
    """Return batches of the graph's inputs; each batch has rows of similar length."""
    limit = BatchLimit(items=_BATCH_SIZE, budget=_BUDGETS[kind])
    batches = plan_row_batches(rows, limit, _calibration_cost)
    return [tower.collate([rows[index] for index in batch]) for batch in batches]


def _calibration_cost(row: Row) -> int:
    if isinstance(row, np.ndarray) and row.ndim == 3:  # [height, width, 3] or [3, height, width]
        return row.size // 3
    return row_cost(row)


def _digest(batches: Batches) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for array in batch.values():
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
