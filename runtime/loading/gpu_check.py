"""Verify a variant on a GPU once, before it is used there.

The gate of the export ran on a CPU, with other kernels, and ONNX Runtime's CPU provider computes float16 in float32. A
graph that passed the gate had wrong masks on a GPU once, because of an error in ONNX Runtime 1.31.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.errors import EmbeddingBackbonesError, IntegrityError, ProviderError
from runtime.inference.pipeline import Pipeline
from runtime.loading.golden_check import GoldenMissError, check_golden, settle_by
from runtime.machine import cuda_driver
from runtime.session.provider_options import OPTIONS, ProviderOptions, device_of, find_reduced_precision
from runtime.session.providers import expected_provider, find_provider_obstacle
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import PREFERENCES, find_variant_obstacle
from runtime.session.verdicts import find_verdict

_LOG = logging.getLogger("runtime")


def verify_once_on_gpu(
    folder: Path, manifest: Manifest, towers: Mapping[TowerName, Tower], options: SessionOptions
) -> None:
    """Compare the golden vectors of the variants that may run on a GPU, and remember the results.

    These are the named variant, or those that ``auto`` prefers, until one passes. It takes a second or more. The
    first load on a kind of GPU does it. Later loads do it only if there is no verdict, see
    :func:`runtime.session.verdicts.find_verdict`. A named variant that missed is compared anew.

    Raises:
        ProviderError: The named variant misses the golden vectors of the export.
        IntegrityError: The named variant cannot be loaded, or it misses them and a file of the artifact is damaged.
    """
    provider = expected_provider(options.provider)
    if provider.device != "cuda" or options.variant == "fp32":
        return
    if find_provider_obstacle(provider):  # it is raised when the graphs are loaded
        return
    settings = options.provider_options or OPTIONS[provider.name]()
    is_auto = options.variant == "auto"
    for name, tower in towers.items():
        for variant_name in PREFERENCES[provider.name] if is_auto else (options.variant,):
            variant = next((each for key, each in tower.variants.items() if key == variant_name), None)
            if variant is None or find_variant_obstacle(variant, provider):
                continue
            if is_auto and variant_name == "fp16" and not cuda_driver.has_fp16_units(device_of(settings)):
                continue
            passed = find_verdict(manifest.sha256, [variant.graph], settings)
            if passed is None or not (passed or is_auto):
                named = replace(options, provider=provider.name, provider_options=settings, variant=variant_name)
                check = partial(_check_variant, folder, manifest, name, named)
                try:
                    settle_by(check, manifest.sha256, [variant.graph], settings)
                    passed = True
                except EmbeddingBackbonesError as exc:
                    _report(exc, variant_name, name, settings, is_auto=is_auto)
            if passed:
                break


def _check_variant(folder: Path, manifest: Manifest, name: TowerName, options: SessionOptions) -> None:
    pipeline = Pipeline(folder, {name: manifest.towers[name]}, manifest.output_dim, options)
    check_golden(folder, manifest, pipeline)


def _report(
    error: EmbeddingBackbonesError, variant: str, tower: TowerName, settings: ProviderOptions, *, is_auto: bool
) -> None:
    """Raise the error of a named variant that cannot be used; otherwise log that ``variant`` was not verified."""
    if not is_auto and isinstance(error, GoldenMissError):
        joint = ", or" if find_reduced_precision(settings) else ";"
        raise ProviderError(
            f"the variant {variant} of the {tower} tower cannot be used on this GPU: {error}{joint} take fp32, or make "
            "the variant again with `python -m exporters optimize`"
        ) from error
    if not is_auto and isinstance(error, IntegrityError):
        raise error
    outcome = "is not used" if is_auto else "was not verified"
    _LOG.warning("the variant %s of the %s tower %s on this GPU: %s", variant, tower, outcome, error)
