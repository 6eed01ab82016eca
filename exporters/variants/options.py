"""Options of variants. This module imports no heavy package, so the command line starts fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.artifact.manifest import TowerName
from runtime.artifact.variants import CalibrationMethod, Floors, Level, Precision

DEFAULT_FLOORS: Mapping[Precision, Floors] = {
    "fp32": Floors(min_cosine=0.999999, min_overlap=0.98, min_invariance=0.999999),
    "fp16": Floors(min_cosine=0.9999, min_overlap=0.9, min_invariance=0.9999),
    "int8": Floors(min_cosine=0.995, min_overlap=0.8, min_invariance=0.9999),
    "compact": Floors(min_cosine=0.999, min_overlap=0.9, min_invariance=0.999999),
}
# More items give a stricter minimum. An image costs a hundred times as much as a text.
DEFAULT_ITEMS: Mapping[TowerName, int] = {"text": 128, "image": 32, "mesh": 32}


@dataclass(frozen=True, kw_only=True)
class VariantOptions:
    """Options of :func:`exporters.variants.build.add_variants`.

    Attributes:
        precisions: Precisions of the variants; ``fp32`` gives the variant ``optimized``.
        level: Optimization level, see :func:`exporters.passes.fuse.fuse`. int8 and compact start from the
            exported graph.
        calibration: The user's own items, a folder or a file. ``None`` means the items of
            :func:`exporters.calibration.dataset.load_calibration_dataset`.
        method: Calibration method of int8.
        items: Number of items for calibration, and of other items for the accuracy check. ``None`` means
            :data:`DEFAULT_ITEMS`.
        min_cosine: Floor, see :class:`runtime.artifact.variants.Floors`. ``None`` means :data:`DEFAULT_FLOORS`.
        min_overlap: As ``min_cosine``.
        min_invariance: As ``min_cosine``.
        accept_batch_dependent: Whether int8 may use dynamic quantization, which makes a vector depend on its batch.
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
        """Return the floors of a variant in ``precision``."""
        names = ("min_cosine", "min_overlap", "min_invariance")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(DEFAULT_FLOORS[precision], **given)
