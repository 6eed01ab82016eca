"""CLIP models of transformers and open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporters.catalogue.spec import ClipSource, OpenClipSource
from exporters.catalogue.weights_ref import ModelWeights
from exporters.families.family import Family, LoadRequest

if TYPE_CHECKING:
    from exporters.families.tower import ExportableTower
    from exporters.weights.finetuner_run import RunModel


def _load(request: LoadRequest[ClipSource | OpenClipSource], weights: ModelWeights) -> list[ExportableTower]:
    from exporters.families.clip.load import load_any_clip
    from exporters.families.clip.tower import build_clip_towers

    return build_clip_towers(load_any_clip(request.source, weights, request.options), request.options)


def _load_run(request: LoadRequest[ClipSource | OpenClipSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    from exporters.families.clip.load import load_clip_run

    return load_clip_run(request.source, models, request.options)


FAMILY: Family[ClipSource | OpenClipSource] = Family(
    sources=(ClipSource, OpenClipSource),
    options=frozenset({"input", "tokenizer", "tower"}),
    load=_load,
    load_run=_load_run,
)
