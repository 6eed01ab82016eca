"""Options of variants. This module imports no heavy package, so the command line starts fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from runtime.artifact.manifest import TowerName
from runtime.artifact.variants import CalibrationMethod, Floors, Level, Precision, VariantName
from runtime.errors import UsageError

LEVELS: Sequence[Level] = get_args(Level)[1:]  # without ``none``, which only records that nothing was optimized
# More items give a stricter minimum. An image costs a hundred times as much as a text.
DEFAULT_ITEMS: Mapping[TowerName, int] = {"text": 128, "image": 32, "mesh": 32}


@dataclass(frozen=True, kw_only=True)
class PrecisionRules:
    """How the variants of a precision are built and judged.

    Attributes:
        floors: Default floors.
        min_retrieval: Default floor for the share of the fp32 graph's recall@10 and nDCG@10. With few queries, one more
            or less found makes a percent.
        margin: Share of the allowed distance from cosine 1 that a recipe may use on the calibration batches. The
            accuracy on held-out items is lower.
        on_cpu: Whether a CPU is meant to run it, so that its speed there is measured.
    """

    floors: Floors
    min_retrieval: float
    margin: float = 1.0
    on_cpu: bool = True


RULES: Mapping[Precision, PrecisionRules] = {
    "fp32": PrecisionRules(
        floors=Floors(min_cosine=0.999999, min_overlap=0.98, min_invariance=0.999999), min_retrieval=0.999
    ),
    "fp16": PrecisionRules(
        floors=Floors(min_cosine=0.9999, min_overlap=0.9, min_invariance=0.9999), min_retrieval=0.995, on_cpu=False
    ),
    "int8": PrecisionRules(
        floors=Floors(min_cosine=0.995, min_overlap=0.8, min_invariance=0.9999), min_retrieval=0.98, margin=0.7
    ),
    "compact": PrecisionRules(
        floors=Floors(min_cosine=0.999, min_overlap=0.9, min_invariance=0.999999), min_retrieval=0.99
    ),
}


def variant_of(precision: Precision) -> VariantName:
    """Return the name of the variants in ``precision``."""
    return "optimized" if precision == "fp32" else precision


@dataclass(frozen=True, kw_only=True)
class VariantOptions:
    """Options of :func:`exporters.variants.build.add_variants`.

    Attributes:
        precisions: Precisions of the variants; ``fp32`` gives the variant ``optimized``.
        level: Optimization level, one of :data:`LEVELS`; see :func:`exporters.passes.fuse.fuse`. ``all`` is for fp32
            alone, and ``basic`` is not for compact.
        calibration: The user's own items, a folder or a file. ``None`` means the items of
            :func:`exporters.calibration.dataset.load_calibration_dataset`.
        method: Calibration method of int8, unless it is dynamic. ``None`` means ``minmax``.
        items: Number of items for calibration, and of other items for the accuracy check. ``None`` means
            :data:`DEFAULT_ITEMS`.
        min_cosine: Floor, see :class:`runtime.artifact.variants.Floors`. ``None`` means that of :data:`RULES`.
        min_overlap: As ``min_cosine``.
        min_invariance: As ``min_cosine``.
        queries: The user's own queries, by which a variant is judged too; see
            :func:`exporters.variants.retrieval_dataset.load_retrieval_dataset`.
        qrels: Relevance judgments of ``queries``.
        corpus: The documents. ``None`` means ``corpus.jsonl`` beside ``queries``.
        min_retrieval: Floor for the share of the fp32 graph's recall@10 and nDCG@10. ``None`` means that
            of :data:`RULES`.
        accept_batch_dependent: Whether int8 may use dynamic quantization, which makes a vector depend on its batch.
    """

    precisions: Sequence[Precision] = ("fp32",)
    level: Level = "extended"
    calibration: Path | None = None
    method: CalibrationMethod | None = None
    items: int | None = None
    min_cosine: float | None = None
    min_overlap: float | None = None
    min_invariance: float | None = None
    queries: Path | None = None
    qrels: Path | None = None
    corpus: Path | None = None
    min_retrieval: float | None = None
    accept_batch_dependent: bool = False

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if options do not fit each other, or if the floor of a search is none."""
        self._check_level()
        self._check_int8()
        if (self.queries is None) != (self.qrels is None):
            raise UsageError("--queries and --qrels belong together; give both, or leave both out")
        if self.queries is None and (self.corpus, self.min_retrieval) != (None, None):
            raise UsageError("--corpus and --min-retrieval are for a search; give --queries and --qrels, too")
        if self.min_retrieval is not None and not 0 < self.min_retrieval <= 1:
            raise UsageError(f"the floor min_retrieval is {self.min_retrieval}, it must be above 0 and at most 1")

    def _check_level(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(f"the level of a variant is {self.level!r}, it must be one of {', '.join(LEVELS)}")
        others = ", ".join(precision for precision in self.precisions if precision != "fp32")
        if self.level == "all" and others:
            raise UsageError(f"--level all is for fp32 alone; make {others} by another command, without --level")
        if self.level == "basic" and "compact" in self.precisions:
            raise UsageError(
                "--level basic has only ONNX operators, and compact needs ONNX Runtime's; make compact by another "
                "command, without --level"
            )

    def _check_int8(self) -> None:
        names = {"--method": self.method is not None, "--accept-batch-dependent": self.accept_batch_dependent}
        given = " and ".join(name for name, is_given in names.items() if is_given)
        if given and "int8" not in self.precisions:
            raise UsageError(f"only int8 takes {given}; add it to --precision, or leave {given} out")
        if all(names.values()):
            raise UsageError("--accept-batch-dependent takes the ranges from each batch; leave --method out")

    def floors(self, precision: Precision) -> Floors:
        """Return the floors of a variant in ``precision``."""
        names = ("min_cosine", "min_overlap", "min_invariance")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(RULES[precision].floors, **given)

    def retrieval_floor(self, precision: Precision) -> float:
        """Return the floor of a search with a variant in ``precision``."""
        return RULES[precision].min_retrieval if self.min_retrieval is None else self.min_retrieval
