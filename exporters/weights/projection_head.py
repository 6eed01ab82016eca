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
    """Return the linear layers of a projection head. Batch norms are folded into them; ReLU follows all but the last.

    Finetuner's own head is linear, batch norm, ReLU, linear, batch norm. A single linear layer is accepted too.

    Args:
        head: Tensors of the head by name.
        source: Name of the checkpoint in error messages.

    Raises:
        WeightsMismatchError: The tensors are not those of such a head.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, value in head.items():
        module, _, parameter = key.rpartition(".")
        modules.setdefault(module, {})[parameter] = value
    linears: list[nn.Linear] = []
    try:
        for module in sorted(modules, key=_numeric_order):
            if modules[module]["weight"].ndim == 2:
                linears.append(_build_linear(modules[module]))
            else:
                linears[-1] = fuse_linear_bn_eval(linears[-1], _build_batch_norm(modules[module]))
        _check_chain(linears)
    except (AssertionError, KeyError, IndexError, RuntimeError, ValueError) as exc:
        raise WeightsMismatchError(
            f"{source} has {', '.join(list(head)[:5])} behind its backbone, expected a projection head of linear "
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
            raise ValueError(f"a layer has {before.out_features} outputs, and the next one {after.in_features} inputs")


def _build_linear(parameters: Mapping[str, Tensor]) -> nn.Linear:
    out_features, in_features = parameters["weight"].shape
    layer = nn.Linear(in_features, out_features, bias="bias" in parameters)
    layer.load_state_dict(dict(parameters))
    return layer.eval()


def _build_batch_norm(parameters: Mapping[str, Tensor]) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(len(parameters["weight"]))
    layer.load_state_dict(dict(parameters))
    return layer.eval()


def _numeric_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts ``layers.10`` behind ``layers.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
