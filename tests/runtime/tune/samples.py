"""Cases and tunings that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import runtime
from runtime.artifact.reader import read_manifest
from runtime.inference.pipeline import Pipeline
from runtime.loading.tuning_store import CaseResult, TuneSetting, write_tuning
from runtime.tune.report import TuneReport, make_tuning

Speed = Callable[[TuneSetting, int], float]
SETTING = TuneSetting(provider="cpu", variant="fp32", threads=1)


def case(p50_ms: float, items_per_s: float, *, p95_ms: float | None = None, batch_size: int = 1) -> CaseResult:
    return CaseResult(
        setting=SETTING,
        batch_size=batch_size,
        p50_ms=p50_ms,
        p95_ms=p95_ms or p50_ms,
        items_per_s=items_per_s,
        min_cosine=1.0,
        calls=20,
        spread=0.0,
    )


def report(*cases: CaseResult, max_latency_ms: float | None = None) -> TuneReport:
    return TuneReport(tower="image", inputs="", max_latency_ms=max_latency_ms, measured=cases, refused=())


def keep(folder: Path, *, date: str = "2026-01-31", batch_size: int = 48, **setting: Any) -> Path:
    """Store a tuning as if it had been found here, and return its file."""
    manifest = read_manifest(folder)
    tower = next(iter(manifest.towers))
    winner = replace(case(8.0, 100.0, batch_size=batch_size), setting=replace(SETTING, **setting))
    return write_tuning(manifest, replace(make_tuning(manifest, tower, winner, None), date=date))


def is_tuned(model: runtime.Embedder) -> bool:
    return "tuned on this machine" in model.provider_reason or "tuned on this machine" in model.variant_reason


def budget(model: runtime.Embedder, tower: Any) -> int:
    return cast("Pipeline", model.backend).towers[tower].batch_sizes.budget
