"""Compute in less than float32 only if the golden vectors pass: in bfloat16, TF32, or TensorRT's float16."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from runtime.artifact.manifest import Manifest, Tower, TowerName, seal
from runtime.artifact.variants import VariantName
from runtime.atomic_write import write_text
from runtime.errors import EmbeddingBackbonesError, NonFiniteError, OutputError, ProviderError
from runtime.inference.embedder import Embedder
from runtime.loading.golden import describe_tower, verify_towers
from runtime.machine.cache_folder import usable_cache
from runtime.machine.cpu import bf16_units
from runtime.session.provider_options import OpenVinoOptions, find_reduced_precision
from runtime.session.providers import PROVIDERS, installed_packages, takes_openvino
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import choose_graph

_LOG = logging.getLogger("runtime")


def open_in_best_precision(
    folder: Path,
    manifest: Manifest,
    towers: Mapping[TowerName, Tower],
    options: SessionOptions,
    open_embedder: Callable[[SessionOptions], Embedder],
) -> Embedder:
    """Open an embedder of ``towers``. If it computes in less than float32, its golden vectors have to pass.

    By default, OpenVINO computes in bfloat16 if the CPU has units for it and the golden vectors pass, otherwise in
    float32. ``open_embedder`` opens the artifact with the given options.

    Raises:
        ProviderError: The options require less than float32, and the golden vectors fail, or the CPU has no units.
        EmbeddingBackbonesError: As for ``open_embedder``.
    """
    chosen = _openvino_options(options)
    if chosen is None or chosen.dtype != "auto":
        if chosen is not None and chosen.dtype == "bf16" and not bf16_units():
            raise ProviderError(
                "this CPU has no units for bfloat16 (AMX or AVX512-BF16), and OpenVINO would emulate them a hundred "
                "times slower than float32; use dtype fp32"
            )
        return _verified(open_embedder(options), folder)
    reason = "auto: the installed onnxruntime has it" if options.provider == "auto" else options.reason
    options = replace(options, provider="openvino", reason=reason)
    in_bf16, in_fp32 = (replace(options, provider_options=replace(chosen, dtype=name)) for name in ("bf16", "fp32"))
    choices = {
        name: choose_graph(tower, PROVIDERS["openvino"], chosen, options.variant).name for name, tower in towers.items()
    }
    if not bf16_units() or "int8" in choices.values():  # int8 has a tolerance of its own
        return open_embedder(in_fp32)
    result_path = _result_path(manifest, choices, chosen)
    return _open_checked(folder, result_path, in_bf16, in_fp32, open_embedder)


def _verified(embedder: Embedder, folder: Path) -> Embedder:
    """Return ``embedder``. If it computes in less than float32, each load compares its golden vectors first."""
    reduced = find_reduced_precision(embedder.provider_options)
    miss = _find_miss(embedder, folder) if reduced else ""
    if reduced and miss:
        embedder.close()
        raise ProviderError(f"the golden vectors are not reproduced {reduced.cause} ({miss}); {reduced.way_out}")
    return embedder


def _find_miss(embedder: Embedder, folder: Path) -> str:
    """Return how the golden vectors are missed, by any of the workers; empty if they are reproduced.

    Raises:
        EmbeddingBackbonesError: They cannot be compared. The embedder is closed then.
    """
    try:
        for backend in embedder.backend.each():
            for name, tower in verify_towers(Embedder(embedder.manifest, backend), folder).items():
                if not tower.agreement.within(tower.tolerance):
                    return describe_tower(name, tower)
    except NonFiniteError as exc:
        return str(exc)
    except BaseException:
        embedder.close()
        raise
    return ""


def _openvino_options(options: SessionOptions) -> OpenVinoOptions | None:
    """Return the options that OpenVINO will use; ``None`` if another provider will run."""
    if not takes_openvino(options.provider):
        return None
    return options.provider_options if isinstance(options.provider_options, OpenVinoOptions) else OpenVinoOptions()


def _open_checked(
    folder: Path,
    result_path: Path | None,
    in_bf16: SessionOptions,
    in_fp32: SessionOptions,
    open_embedder: Callable[[SessionOptions], Embedder],
) -> Embedder:
    """Open in bfloat16 if the golden vectors pass, otherwise in float32. The result of the check is stored."""
    miss, embedder = _read_miss(result_path), None
    if miss is None:
        embedder = open_embedder(in_bf16)
        try:
            miss = _find_miss(embedder, folder)
        except EmbeddingBackbonesError as exc:  # perhaps for lack of memory: the next load tries again
            _LOG.warning("openvino computes in float32: the golden vectors cannot be compared in bfloat16 (%s)", exc)
            return open_embedder(in_fp32)
        if result_path is not None:
            with suppress(OutputError):  # on a full disk, the next load repeats the check, which takes a second
                write_text(result_path, json.dumps(miss))
    if not miss:
        return embedder or open_embedder(in_bf16)
    if embedder is not None:
        embedder.close()
    _LOG.warning("openvino computes in float32: the golden vectors are not reproduced in bfloat16 (%s)", miss)
    return open_embedder(in_fp32)


def _result_path(manifest: Manifest, choices: Mapping[TowerName, VariantName], options: OpenVinoOptions) -> Path | None:
    """Return the file with the result for the graphs of this artifact, these packages and this kind of CPU."""
    folder = usable_cache("openvino", options.cache_folder)
    key = [manifest.to_json(), choices, installed_packages(), platform.machine(), sorted(bf16_units())]
    return Path(folder, f"bf16-{seal(key)[:32]}.json") if folder else None


def _read_miss(path: Path | None) -> str | None:
    """Return the stored result of :func:`_find_miss`; ``None`` if there is none, or it is damaged."""
    try:
        return str(json.loads(path.read_text("utf-8"))) if path else None
    except (OSError, ValueError):
        return None
