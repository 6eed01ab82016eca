"""Projection heads from a state dict: linear layers, with their batch norms folded in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from exporters.errors import WeightsMismatchError
from exporters.modules.projection import ProjectionLayer
from runtime.artifact.manifest import Projection


def read_head(head: Mapping[str, Tensor], source: str) -> tuple[ProjectionLayer, ...]:
    """Returns a projection head: linear layers, each with the batch norm behind it folded in, ReLU between them.

    Finetuner's own is linear, batch norm, ReLU, linear, batch norm. A single linear layer is taken as well.

    Raises:
        WeightsMismatchError: It is something else.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in head.items():
        module, _, parameter = key.rpartition(".")
        parts.setdefault(module, {})[parameter] = value
    linears: list[nn.Linear] = []
    try:
        for module in sorted(parts, key=_natural):
            if parts[module]["weight"].ndim == 2:
                linears.append(_linear(parts[module]))
            else:
                linears[-1] = fuse_linear_bn_eval(linears[-1], _batch_norm(parts[module]))
        _check_chain(linears)
    except (AssertionError, KeyError, IndexError, RuntimeError, ValueError) as exc:
        raise WeightsMismatchError(
            f"{source} has {', '.join(list(head)[:5])} behind its backbone, which is no projection head of linear "
            "layers and batch norms"
        ) from exc
    return tuple(
        (
            Projection(
                in_features=linear.in_features,
                out_features=linear.out_features,
                bias=linear.bias is not None,
                activation="identity" if linear is linears[-1] else "relu",
            ),
            linear,
        )
        for linear in linears
    )


def _check_chain(linears: Sequence[nn.Linear]) -> None:
    for before, after in pairwise(linears):
        if before.out_features != after.in_features:
            raise ValueError(f"a layer gives {before.out_features} numbers, and the next one takes {after.in_features}")


def _linear(parameters: Mapping[str, Tensor]) -> nn.Linear:
    out_features, in_features = parameters["weight"].shape
    layer = nn.Linear(in_features, out_features, bias="bias" in parameters)
    layer.load_state_dict(dict(parameters))
    return layer.eval()


def _batch_norm(parameters: Mapping[str, Tensor]) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(len(parameters["weight"]))
    layer.load_state_dict(dict(parameters))
    return layer.eval()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``layers.10`` behind ``layers.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
