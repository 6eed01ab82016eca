"""Options and helpers for benchmarks of toy artifacts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.contenders.protocol import Setup, Target
from benchmarks.measure.plan import PlanOptions
from benchmarks.measure.rounds import TimingOptions
from benchmarks.measure.workload import Workload, load_items
from runtime.artifact.reader import read_manifest

TIMING = TimingOptions(threads=1, min_rounds=3, seconds=0.01, patience=0, confidence=0.95, half_width=0.05)
SETUP = Setup(
    contender="runtime",
    variant="fp32",
    provider="cpu",
    precision="fp32",
    stages=("graph", "end_to_end"),
    model="none",
    tower="text",
)


def toy_options(weights: Path | None = None, **changes: object) -> PlanOptions:
    """Return options for the smallest benchmark of the artifact ``toy``."""
    named = {} if weights is None else {"toy": str(weights)}
    options = PlanOptions(batch_sizes=(2,), tokens=(8,), weights=named, contenders=("runtime",))
    return replace(options, **changes)  # type: ignore[arg-type]


def toy_target(folder: Path) -> Target:
    """Return the only tower of an artifact."""
    manifest = read_manifest(folder)
    (tower,) = manifest.towers
    return Target(folder=folder, manifest=manifest, tower=tower, weights=None)


def text_workload(target: Target, scratch: Path) -> Workload:
    """Return the built-in texts for ``target``."""
    return Workload(target, load_items("text", scratch))
