"""An input of a graph that is to be traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.artifact.manifest import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """An input of a graph.

    Attributes:
        spec: Name, dtype and shape. An axis that is a string is dynamic in the graph.
        example: A tensor of that shape. Its dynamic axes are 2 or longer: torch treats a length of 1 as a constant.
    """

    spec: TensorSpec
    example: Tensor
