"""Verify float16 on a GPU once, before ``auto`` chooses it there.

The gate of the export ran on a CPU, and ONNX Runtime's CPU provider computes float16 in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.errors import EmbeddingBackbonesError, NonFiniteError
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import Pipeline
from runtime.loading.golden import verify_towers
from runtime.machine import cuda_driver
from runtime.session.provider_options import OPTIONS, device_of
from runtime.session.providers import PROVIDERS, ExecutionProvider, available_providers, find_provider_obstacle
from runtime.session.session import SessionOptions
from runtime.session.settled_variants import find_verdict, settle
from runtime.session.variant_selection import find_variant_obstacle, gpu_name

_LOG = logging.getLogger("runtime")


def verify_fp16_once(
    folder: Path, manifest: Manifest, towers: Mapping[TowerName, Tower], options: SessionOptions
) -> None:
    """Compare the golden vectors of each fp16 variant that ``auto`` may choose, and remember the result.

    It takes a second or two, and only for the first load with a kind of GPU and a version of onnxruntime.
    """
    provider = _find_gpu_provider(options) if options.variant == "auto" else None
    if provider is None:
        return
    settings = options.provider_options or OPTIONS[provider.name]()
    if not cuda_driver.has_fp16_units(device_of(settings)):
        return
    options = replace(options, provider=provider.name, provider_options=settings, variant="fp16")
    for name, tower in towers.items():
        variant = tower.variants.get("fp16")
        if variant is None or find_variant_obstacle(variant, provider):
            continue
        if find_verdict(variant, provider.name, gpu_name(settings)) is None:
            passed = _reproduces(folder, manifest, name, options)
            if passed is not None:
                settle(variant, provider.name, gpu_name(settings), passed=passed)


def _find_gpu_provider(options: SessionOptions) -> ExecutionProvider | None:
    """Return the provider that will run, if it is one for GPUs."""
    if options.provider != "auto":
        provider = PROVIDERS[options.provider]
        return provider if provider.device == "cuda" else None
    cuda = PROVIDERS["cuda"]
    return cuda if cuda in available_providers() and find_provider_obstacle(cuda) is None else None


def _reproduces(folder: Path, manifest: Manifest, name: TowerName, options: SessionOptions) -> bool | None:
    """Return whether the golden vectors are within the variant's floors; ``None`` if that cannot be told now."""
    try:
        pipeline = Pipeline(folder, {name: manifest.towers[name]}, manifest.output_dim, options)
        (tower,) = verify_towers(Embedder(manifest, pipeline), folder).values()
    except EmbeddingBackbonesError as exc:
        _LOG.warning("the variant fp16 of the %s tower is not used on this GPU: %s", name, exc)
        return False if isinstance(exc, NonFiniteError) else None
    passed = tower.agreement.within(tower.tolerance)
    if not passed:
        _LOG.warning("the variant fp16 of the %s tower is not used: this GPU misses the golden vectors", name)
    return passed
