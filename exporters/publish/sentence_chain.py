"""The modules of sentence-transformers after the encoder, as files, and read back from them.

sentence-transformers takes the token features of a graph, and pools them with its own modules.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from exporters.errors import PublishError
from exporters.graph.initializers import initializer_array
from exporters.publish.json_file import write_json
from exporters.publish.source import Source
from runtime.array_types import Array
from runtime.artifact.manifest import Pooling, Projection

_PREFIX = "sentence_transformers.models."
# Source: sentence_transformers/models/Pooling.py, whose vectors follow each other in this order.
MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ACTIVATIONS = {
    "Identity": "torch.nn.modules.linear.Identity",
    "Tanh": "torch.nn.modules.activation.Tanh",
    "ReLU": "torch.nn.modules.activation.ReLU",
    "GELU": "torch.nn.modules.activation.GELU",
}
_CLASSES = {"identity": "Identity", "tanh": "Tanh", "relu": "ReLU", "gelu": "GELU"}
_DENSE = re.compile(r"Dense: (\d+) to (\d+), (\w+)")
_erf = np.vectorize(math.erf, otypes=[np.float64])
_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "Identity": np.asarray,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
}


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of sentence-transformers: its class, its configuration and its weights."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)


def chain_obstacle(source: Source) -> str | None:
    """Return why sentence-transformers has no such modules, or ``None``."""
    pooling = source.manifest.towers["text"].pooling
    unknown = [method for method in (pooling.method, *pooling.others) if method not in MODES]
    if unknown or source.manifest.architecture == "static-embedding":
        return f"the pooling {', '.join(unknown) or 'of a static embedding'} is none of sentence-transformers on tokens"
    for layer in _layers(source):
        if not (layer in ("Normalize", "Dropout") or layer.startswith("Pooling") or _dense(layer)):
            return f"the layer {layer!r} cannot be written for sentence-transformers"
    return None


def read_chain(source: Source, model: ir.Model, tensor: ir.Value, width: int) -> list[Module]:
    """Return the modules after the encoder. The weights of Dense come from the graph.

    Args:
        source: The artifact.
        model: Its graph.
        tensor: The token features in the graph.
        width: Their number.

    Raises:
        PublishError: The graph has another number of Dense layers than the manifest.
    """
    layers = [layer for layer in _layers(source) if layer != "Dropout"]
    found, wanted = list(_linear_layers(model.graph, tensor)), [layer for layer in layers if _dense(layer)]
    if len(found) != len(wanted):
        raise PublishError(f"the graph has {len(found)} linear layers after the pooling, the manifest {len(wanted)}")
    weights = iter(found)
    return [_module(source, layer, width, weights) for layer in layers]


def write_chain(modules: list[Module], folder: Path) -> None:
    """Write ``modules.json``, and a folder for each module."""
    from safetensors.numpy import save_file

    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{_PREFIX}Transformer"}]
    for index, module in enumerate(modules, start=1):
        path = f"{index}_{module.kind}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"{_PREFIX}{module.kind}"})
        (folder / path).mkdir()
        if module.config:
            write_json(folder / path / "config.json", module.config)
        if module.weights:
            save_file(
                {name: np.ascontiguousarray(each) for name, each in module.weights.items()},
                folder / path / "model.safetensors",
            )
    write_json(folder / "modules.json", entries)


def apply_chain(folder: Path, tokens: Array, mask: Array) -> Array:
    """Return the vectors that the written modules make of token features, computed in float64.

    Args:
        folder: The layout.
        tokens: Features of the tokens, ``[batch, sequence, width]``.
        mask: ``[batch, sequence]``, 0 for padding.
    """
    from safetensors.numpy import load_file

    vectors, tokens = np.empty(0), tokens.astype(np.float64)
    for entry in json.loads((folder / "modules.json").read_text("utf-8"))[1:]:
        kind, place = entry["type"].removeprefix(_PREFIX), folder / entry["path"]
        if kind == "Normalize":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            continue
        config = json.loads((place / "config.json").read_text("utf-8"))
        if kind == "Pooling":
            vectors = np.concatenate([_pool(each, tokens, mask) for each, key in MODES.items() if config[key]], axis=1)
        else:
            vectors = _apply_dense(config, load_file(place / "model.safetensors"), vectors)
    return vectors


def _layers(source: Source) -> list[str]:
    """Return the layers after the encoder, in the words of the manifest."""
    tower = source.manifest.towers["text"]
    dense = (
        f"Dense: {each.in_features} to {each.out_features}, {_CLASSES[each.activation]}" for each in tower.projections
    )
    return list(tower.layers) or ["Pooling", *dense, *(["Normalize"] * tower.normalized)]


def _dense(layer: str) -> Projection | None:
    """Return a plain Dense on sentences; ``None`` for other layers."""
    match = _DENSE.fullmatch(layer)
    if match is None or match[3] not in _ACTIVATIONS:
        return None
    names: dict[str, Any] = {each: name for name, each in _CLASSES.items()}
    return Projection(in_features=int(match[1]), out_features=int(match[2]), bias=True, activation=names[match[3]])


def _module(source: Source, layer: str, width: int, weights: Iterator[tuple[Array, Array | None]]) -> Module:
    if layer == "Normalize":
        return Module(kind="Normalize")
    if layer.startswith("Pooling"):
        return Module(kind="Pooling", config=_pooling_config(source, source.manifest.towers["text"].pooling, width))
    matrix, bias = next(weights)
    outputs, inputs = matrix.shape
    activation = _DENSE.fullmatch(layer)
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": bias is not None,
        "activation_function": _ACTIVATIONS[activation[3]] if activation else "",
    }
    named = {"linear.weight": matrix} | ({} if bias is None else {"linear.bias": bias})
    return Module(kind="Dense", config=config, weights=named)


def _pooling_config(source: Source, pooling: Pooling, width: int) -> dict[str, Any]:
    chosen = {pooling.method, *pooling.others}
    return {
        "word_embedding_dimension": width,
        **{key: mode in chosen for mode, key in MODES.items()},
        "include_prompt": "pooling_mask" not in source.text.inputs,
    }


def _linear_layers(graph: ir.Graph, tensor: ir.Value) -> Iterator[tuple[Array, Array | None]]:
    """Yield the weight, ``[out, in]``, and the bias of each linear layer that follows ``tensor``."""
    reached: set[ir.Value | None] = {tensor}
    for node in graph:
        if reached.isdisjoint(node.inputs) or node.op_type == "Shape":
            continue
        reached.update(node.outputs)
        if node.op_type not in ("Gemm", "MatMul") or not (weight := _constants(node.inputs[1:2])):
            continue
        matrix = initializer_array(weight[0]).astype(np.float32)
        sums = (each.inputs for each in node.outputs[0].consumers() if each.op_type == "Add")
        bias = _constants(node.inputs[2:] or next(sums, ()))
        yield matrix if node.attributes.get_int("transB", 0) else matrix.T, initializer_array(bias[0]) if bias else None


def _constants(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None and value.is_initializer()]


def _pool(method: str, tokens: Array, mask: Array) -> Array:
    weights = mask[..., None].astype(np.float64)
    if method == "cls":
        return np.asarray(tokens[:, 0])
    if method == "max":
        return np.asarray(np.where(weights > 0, tokens, -np.inf).max(axis=1))
    if method == "lasttoken":
        return np.asarray(tokens[np.arange(len(tokens)), np.maximum(mask.sum(axis=1) - 1, 0)])
    if method == "weightedmean":
        weights = weights * np.arange(1, mask.shape[1] + 1)[:, None]
    elif method not in ("mean", "mean_sqrt_len_tokens"):
        raise NotImplementedError(f"the pooling {method} of tokens")
    total = np.maximum(weights.sum(axis=1), 1e-9)
    return np.asarray((tokens * weights).sum(axis=1) / (np.sqrt(total) if method == "mean_sqrt_len_tokens" else total))


def _apply_dense(config: Mapping[str, Any], weights: Mapping[str, Array], vectors: Array) -> Array:
    product = vectors @ weights["linear.weight"].T.astype(np.float64)
    if config["bias"]:
        product = product + weights["linear.bias"]
    name = next(name for name, path in _ACTIVATIONS.items() if path == config["activation_function"])
    return np.asarray(_FUNCTIONS[name](product))
