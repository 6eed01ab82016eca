"""The losses by name, and the usual one for each kind of data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exporters.errors import TrainingDataError
from exporters.fit.dataset import Data, DataKind
from exporters.fit.options import FitOptions
from runtime.errors import UsageError

_LOG = logging.getLogger("exporters")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss of sentence-transformers: the name of its class, and the settings that differ from the defaults."""

    class_name: str
    kinds: tuple[DataKind, ...]
    settings: Mapping[str, Any]
    cached: str = ""  # the class that caches gradients, if there is one


_BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
_RANKING = "MultipleNegativesRankingLoss"
# The first loss for a kind of data is its default. A model is used by cosine similarity, so the triplets are too:
# cosine distances lie between 0 and 2, so the library's margin of 5 would never be reached. CLIP ends its own training
# with the scale 100.
LOSSES: Mapping[str, Loss] = {
    "ranking": Loss(class_name=_RANKING, kinds=("pairs", "triplets"), settings={}, cached=f"Cached{_RANKING}"),
    "clip": Loss(
        class_name=_RANKING, kinds=("captions",), settings=_BOTH | {"scale": 100.0}, cached=f"Cached{_RANKING}"
    ),
    "symmetric-ranking": Loss(
        class_name=_RANKING, kinds=("pairs", "triplets", "captions"), settings=_BOTH, cached=f"Cached{_RANKING}"
    ),
    "triplet-hard": Loss(class_name="BatchHardTripletLoss", kinds=("labels",), settings={"margin": 0.2}),
    "triplet-semi-hard": Loss(class_name="BatchSemiHardTripletLoss", kinds=("labels",), settings={"margin": 0.2}),
    "triplet-all": Loss(class_name="BatchAllTripletLoss", kinds=("labels",), settings={"margin": 0.2}),
    "triplet-soft-margin": Loss(class_name="BatchHardSoftMarginTripletLoss", kinds=("labels",), settings={}),
    "cosent": Loss(class_name="CoSENTLoss", kinds=("scores",), settings={}),
    "cosine": Loss(class_name="CosineSimilarityLoss", kinds=("scores",), settings={}),
}


def choose_loss(name: str | None, data: Data) -> str:
    """Return the name of the loss: the user's, or the usual one of the data.

    Raises:
        UsageError: There is no such loss, or it is not for this kind of data.
        TrainingDataError: The scores are not those that the loss takes.
    """
    fitting = [known for known, loss in LOSSES.items() if data.kind in loss.kinds]
    if name is None:
        name = fitting[0]
    if name not in fitting:
        raise UsageError(f"the loss {name!r} is not for {data.kind}; choose one of {', '.join(fitting)}")
    if name == "cosent" and len({row.target for row in data.rows}) < 2:
        raise TrainingDataError("all scores are equal, and cosent compares pairs with different scores; use cosine")
    outside = [row for row in data.rows if name == "cosine" and abs(float(row.target or 0)) > 1]
    if outside:
        row = outside[0]
        raise TrainingDataError(
            f"{row.place}: the score {row.target} is no cosine; scale scores to -1 to 1, or use cosent"
        )
    return name


def build_loss(name: str, model: Any, options: FitOptions) -> Any:
    """Return the loss ``name`` for a SentenceTransformer, with cached gradients and smaller dimensions if asked for.

    Raises:
        UsageError: The loss caches no gradients, or a number of dimensions is not smaller than the model's.
    """
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction

    chosen = LOSSES[name]
    settings, class_name = dict(chosen.settings), chosen.class_name
    if "labels" in chosen.kinds:
        settings["distance_metric"] = BatchHardTripletLossDistanceFunction.cosine_distance
    if options.mini_batch_size is not None:
        if not chosen.cached:
            raise UsageError(
                f"the loss {name} caches no gradients; leave out --mini-batch-size, or use smaller batches"
            )
        class_name, settings["mini_batch_size"] = chosen.cached, options.mini_batch_size
    build: Callable[..., Any] = getattr(losses, class_name)
    loss = build(model, **settings)
    if model.similarity_fn_name != "cosine" and not isinstance(model[-1], Normalize):
        _LOG.warning(
            "the loss compares by cosine, and the model and its evaluation by %s; see whether it becomes better by "
            "--eval or --val-split",
            model.similarity_fn_name,
        )
    if not options.dims:
        return loss
    full = int(model.get_embedding_dimension())
    if max(options.dims) >= full:
        raise UsageError(f"--dims {max(options.dims)} is not smaller than the model's {full} dimensions")
    return losses.MatryoshkaLoss(model, loss, [full, *options.dims])
