"""What is asked of variants: which to make, from what, and what they have to reach. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from runtime.artifact.manifest import TowerName
from runtime.artifact.variants import CalibrationMethod, Floors, Level, Precision

DEFAULT_FLOORS: Mapping[Precision, Floors] = MappingProxyType(
    {
        "fp32": Floors(min_cosine=0.999999, min_overlap=0.98, min_invariance=0.999999),
        "fp16": Floors(min_cosine=0.9999, min_overlap=0.9, min_invariance=0.9999),
        "int8": Floors(min_cosine=0.995, min_overlap=0.8, min_invariance=0.9999),
    }
)
# The worst of many items is worse than that of few; images cost a hundred times what a text does.
DEFAULT_ITEMS: Mapping[TowerName, int] = MappingProxyType({"text": 128, "image": 32, "mesh": 32})


@dataclass(frozen=True, kw_only=True)
class VariantOptions:
    """What to make, from what, and how good it has to be.

    Attributes:
        precisions: What to compute in; ``fp32`` makes the variant ``optimized``.
        level: How far graphs are optimized, see :func:`exporters.passes.fuse.fuse`; int8 starts from what was exported.
        calibration: The user's own items, a folder or a file; by default what every machine has.
        method: How int8's ranges follow from the values that were seen.
        items: How many items to calibrate with, and as many others to judge by; by default :data:`DEFAULT_ITEMS`.
        min_cosine: Floor in place of the default one of :data:`DEFAULT_FLOORS`.
        min_overlap: The same.
        min_invariance: The same.
        accept_batch_dependent: Whether int8 may take the range of each batch, so that a vector depends on its batch.
    """

    precisions: Sequence[Precision] = ("fp32",)
    level: Level = "extended"
    calibration: Path | None = None
    method: CalibrationMethod = "minmax"
    items: int | None = None
    min_cosine: float | None = None
    min_overlap: float | None = None
    min_invariance: float | None = None
    accept_batch_dependent: bool = False

    def floors(self, precision: Precision) -> Floors:
        """Returns what a variant in ``precision`` has to reach."""
        names = ("min_cosine", "min_overlap", "min_invariance")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(DEFAULT_FLOORS[precision], **given)
