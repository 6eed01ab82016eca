"""Verify a variant on a GPU once, before it is used there.

The gate of the export ran on a CPU, with other kernels, and ONNX Runtime's CPU provider computes float16 in float32. A
graph that passed the gate had wrong masks on a GPU once, because of an error in ONNX Runtime 1.31.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.artifact.parity import format_cosine
from runtime.errors import EmbeddingBackbonesError, NonFiniteError, ProviderError
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import Pipeline
from runtime.loading.golden import verify_towers
from runtime.machine import cuda_driver
from runtime.session.provider_options import OPTIONS, ReducedPrecision, device_of, find_reduced_precision
from runtime.session.providers import expected_provider
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import PREFERENCES, find_variant_obstacle, verdict_scope
from runtime.session.verdicts import find_verdict, settle

_LOG = logging.getLogger("runtime")


def verify_once_on_gpu(
    folder: Path, manifest: Manifest, towers: Mapping[TowerName, Tower], options: SessionOptions
) -> None:
    """Compare the golden vectors of the variants that may run on a GPU, and remember the results.

    These are the named variant, or those that ``auto`` prefers, until one passes. It takes a second or more. The
    first load does it with a kind of GPU, and again after an update of its driver, CUDA, cuDNN or onnxruntime. A named
    variant that missed is compared anew.

    Raises:
        ProviderError: The named variant misses the golden vectors of the export.
    """
    provider = expected_provider(options.provider)
    if provider.device != "cuda" or options.variant == "fp32":
        return
    settings = options.provider_options or OPTIONS[provider.name]()
    is_auto, scope = options.variant == "auto", verdict_scope(settings)
    for name, tower in towers.items():
        for variant_name in PREFERENCES[provider.name] if is_auto else (options.variant,):
            variant = next((each for key, each in tower.variants.items() if key == variant_name), None)
            if variant is None or find_variant_obstacle(variant, provider):
                continue
            if is_auto and variant_name == "fp16" and not cuda_driver.has_fp16_units(device_of(settings)):
                continue
            passed = find_verdict(variant, provider.name, scope)
            if passed is None or not (passed or is_auto):
                asked = replace(options, provider=provider.name, provider_options=settings, variant=variant_name)
                passed, miss = _reproduces(folder, manifest, name, asked)
                if passed is not None:
                    settle(variant, provider.name, scope, passed=passed)
                if miss:
                    reduced = find_reduced_precision(settings)
                    _report(miss, variant_name, name, reduced, is_auto=is_auto, is_certain=passed is False)
            if passed:
                break


def _reproduces(
    folder: Path, manifest: Manifest, name: TowerName, options: SessionOptions
) -> tuple[bool | None, str | None]:
    """Return whether the golden vectors are within the variant's floors, and what is wrong.

    The first is ``None`` if that cannot be told now.
    """
    try:
        pipeline = Pipeline(folder, {name: manifest.towers[name]}, manifest.output_dim, options)
        (tower,) = verify_towers(Embedder(manifest, pipeline), folder).values()
    except EmbeddingBackbonesError as exc:
        return False if isinstance(exc, NonFiniteError) else None, str(exc)
    if tower.agreement.within(tower.tolerance):
        return True, None
    lowest, floor = format_cosine(tower.agreement.min_cosine), format_cosine(tower.tolerance.min_cosine)
    return False, f"this GPU misses the golden vectors (min cosine {lowest}, at least {floor})"


def _report(
    miss: str, variant: str, tower: TowerName, reduced: ReducedPrecision | None, *, is_auto: bool, is_certain: bool
) -> None:
    if is_certain and not is_auto:
        way_out = "take fp32, or make the variant again with `python -m exporters optimize`"
        if reduced:
            miss, way_out = f"{miss} {reduced.cause}", f"{reduced.way_out}, or {way_out}"
        raise ProviderError(f"the variant {variant} of the {tower} tower cannot be used: {miss}; {way_out}")
    outcome = "is not used" if is_auto else "was not verified"
    _LOG.warning("the variant %s of the %s tower %s on this GPU: %s", variant, tower, outcome, miss)
