"""What a sentence-transformers folder says of the way from token features to one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from exporters.errors import WeightsError
from exporters.modules.projection import ProjectionLayer
from exporters.sources.checkpoint import read_state_dict
from exporters.sources.folder import find_weights, read_json
from runtime.manifest import Pooling, PoolingMethod, Projection

_POOLINGS: Mapping[str, PoolingMethod] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}


@dataclass(frozen=True, kw_only=True)
class SentenceLayers:
    """What a checkpoint says of the way from token features to one vector.

    Attributes:
        pooling: How tokens are pooled; ``None`` if it says nothing.
        projections: Linear layers after it, with their records.
        normalized: Whether unit length follows.
        max_length: Tokens that it takes; ``None`` if it says nothing.
    """

    pooling: Pooling | None = None
    projections: tuple[ProjectionLayer, ...] = ()
    normalized: bool = False
    max_length: int | None = None


def read_sentence_layers(folder: Path, *, with_weights: bool = True) -> SentenceLayers:
    """Reads ``modules.json`` and what it names; nothing is assumed where there is none.

    Args:
        folder: In the layout of sentence-transformers, or of transformers alone.
        with_weights: Whether to read the linear layers' weights; without, they are left as they are initialised.

    Raises:
        WeightsError: A file is damaged, or a module is none that this exporter knows.
    """
    if not (folder / "modules.json").is_file():
        return SentenceLayers()
    pooling, projections, normalized = None, [], False
    for module in read_json(folder / "modules.json"):
        kind, path = str(module["type"]).rpartition(".")[2], folder / str(module["path"])
        if kind == "Pooling":
            pooling = _read_pooling(path / "config.json")
        elif kind == "Dense":
            projections.append(_read_dense(path, with_weights=with_weights))
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise WeightsError(f"{folder} has a module {kind}, which this exporter does not know")
    limits = folder / "sentence_bert_config.json"
    return SentenceLayers(
        pooling=pooling,
        projections=tuple(projections),
        normalized=normalized,
        max_length=read_json(limits).get("max_seq_length") if limits.is_file() else None,
    )


def _read_pooling(path: Path) -> Pooling:
    config = read_json(path)
    modes = [name for name, value in config.items() if name.startswith("pooling_mode") and value is True]
    named = config.get("pooling_mode")  # sentence-transformers 5 writes one name instead of flags
    method = _POOLINGS.get(modes[0]) if len(modes) == 1 else named
    if method not in ("mean", "cls", "max"):
        raise WeightsError(f"{path} asks for the pooling {named or modes}; this exporter knows mean, cls and max")
    return Pooling(method=method)


def _read_dense(folder: Path, *, with_weights: bool) -> ProjectionLayer:
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.linear.Identity")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise WeightsError(f"{folder} asks for the activation {activation}; this exporter knows {list(_ACTIVATIONS)}")
    record = Projection(
        in_features=config["in_features"],
        out_features=config["out_features"],
        bias=config["bias"],
        activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
    )
    layer = nn.Linear(record.in_features, record.out_features, bias=record.bias)
    if with_weights:
        _fill(layer, folder)
    return record, layer.eval()


def _fill(layer: nn.Linear, folder: Path) -> None:
    files = find_weights(folder)
    if not files:
        raise WeightsError(f"{folder} holds no weights; copy or download it whole")
    state = {name.removeprefix("linear."): value for name, value in read_state_dict(files[0]).items()}
    try:
        layer.load_state_dict(state)
    except RuntimeError as exc:
        raise WeightsError(f"{folder} holds no weights that fit its config.json ({exc})") from exc
