"""Copies of modules that share their tensors."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def copy_sharing_tensors(model: Model) -> Model:
    """Return a copy of the modules in ``model`` with the same parameters and buffers: training one trains both."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, memo)
