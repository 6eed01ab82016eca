"""Compute in less than float32 only if the golden vectors pass: in bfloat16, TF32, or TensorRT's float16."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.errors import EmbeddingBackbonesError, IntegrityError, ProviderError
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import CheckPipeline, Pipeline
from runtime.loading.golden_check import GoldenMissError, check_golden, settle_by
from runtime.machine.cpu import bf16_units, is_faster_in_bf16
from runtime.session.provider_options import OpenVinoOptions, find_reduced_precision
from runtime.session.providers import PROVIDERS, expected_provider
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import choose_graph
from runtime.session.verdicts import find_verdict

_LOG = logging.getLogger("runtime")
OpenEmbedder: TypeAlias = Callable[[SessionOptions, CheckPipeline | None], Embedder]


def open_in_best_precision(
    folder: Path,
    manifest: Manifest,
    towers: Mapping[TowerName, Tower],
    options: SessionOptions,
    open_embedder: OpenEmbedder,
) -> Embedder:
    """Open an embedder of ``towers``. If it computes in less than float32, its golden vectors have to pass.

    By default, OpenVINO computes in bfloat16 if the CPU is faster in it and the golden vectors pass, otherwise in
    float32. ``open_embedder`` opens the artifact with the given options, and calls the check with each pipeline.

    Raises:
        ProviderError: The options require less than float32, and the golden vectors fail, or the CPU has no units.
        IntegrityError: The golden vectors fail, and a file of the artifact is damaged.
        EmbeddingBackbonesError: As for ``open_embedder``.
    """
    check = partial(_check_reduced, folder, manifest)
    if expected_provider(options.provider).name != "openvino":
        return open_embedder(options, check)
    chosen = options.provider_options if isinstance(options.provider_options, OpenVinoOptions) else OpenVinoOptions()
    if chosen.dtype == "bf16" and not bf16_units():
        raise ProviderError(
            "this CPU has no units for bfloat16 (AMX or AVX512-BF16), and OpenVINO would emulate them a hundred times "
            "slower than float32; use dtype fp32"
        )
    if chosen.dtype == "fp32":
        return open_embedder(options, None)
    try:
        return _open_in_openvino(manifest, towers, options, chosen, open_embedder, check)
    except ProviderError:
        if options.provider != "auto":
            raise
    return open_embedder(options, None)  # the session logs why it skips OpenVINO


def _open_in_openvino(
    manifest: Manifest,
    towers: Mapping[TowerName, Tower],
    options: SessionOptions,
    chosen: OpenVinoOptions,
    open_embedder: OpenEmbedder,
    check: CheckPipeline,
) -> Embedder:
    """Open in bfloat16 if the golden vectors pass, otherwise in float32. The result of the check is remembered.

    If the user asks for bfloat16, the golden vectors are compared at each load.
    """
    reason = "auto: the installed onnxruntime has it" if options.provider == "auto" else options.reason
    options = replace(options, provider="openvino", reason=reason)
    bf16, fp32 = (replace(chosen, dtype=name) for name in ("bf16", "fp32"))
    in_bf16, in_fp32 = (replace(options, provider_options=each) for each in (bf16, fp32))
    choices = [
        choose_graph(tower, PROVIDERS["openvino"], chosen, options.variant, manifest.sha256)
        for tower in towers.values()
    ]
    graphs = [choice.graph for choice in choices]
    open_checked = partial(settle_by, partial(open_embedder, in_bf16, check), manifest.sha256, graphs, bf16)
    if chosen.dtype == "bf16":
        return open_checked()
    if not is_faster_in_bf16() or "int8" in {choice.name for choice in choices}:  # int8 has a tolerance of its own
        return open_embedder(in_fp32, None)
    verdict = find_verdict(manifest.sha256, graphs, bf16)
    if verdict:
        return open_embedder(in_bf16, None)
    cause = (
        "an earlier load did not reproduce the golden vectors in bfloat16; to compare them again, load once with dtype "
        "bf16"
    )
    if verdict is None:
        try:
            return open_checked()
        except GoldenMissError as exc:
            cause = str(exc)
        except (IntegrityError, ProviderError):
            raise
        except EmbeddingBackbonesError as exc:  # perhaps for lack of memory: the next load tries again
            cause = f"the golden vectors cannot be compared in bfloat16 ({exc})"
    _LOG.warning("openvino computes in float32: %s", cause)
    return open_embedder(in_fp32, None)


def _check_reduced(folder: Path, manifest: Manifest, pipeline: Pipeline) -> None:
    """Check the golden vectors if ``pipeline`` computes in less than float32; see :func:`check_golden`."""
    if find_reduced_precision(pipeline.info.provider_options):
        check_golden(folder, manifest, pipeline)
