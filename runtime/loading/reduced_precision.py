"""Compute in less than float32 only if the golden vectors pass: in bfloat16, TF32, or TensorRT's float16."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.artifact.manifest import Manifest
from runtime.artifact.parity import REDUCED_TOLERANCE, format_cosine
from runtime.atomic_write import write_text
from runtime.errors import EmbeddingBackbonesError, NonFiniteError, OutputError, ProviderError
from runtime.inference.embedder import Embedder
from runtime.loading.golden import verify_towers
from runtime.machine.cache_folder import usable_cache
from runtime.machine.cpu import bf16_units
from runtime.session.provider_options import OpenVinoOptions, find_reduced_precision
from runtime.session.providers import PROVIDERS, available_providers, installed_packages
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import choose_graph

_LOG = logging.getLogger("runtime")


@dataclass(frozen=True, kw_only=True)
class Bf16Check:
    """Whether an artifact's golden vectors pass in bfloat16 on this machine, and their min cosine or error as text."""

    passes: bool
    figures: str


def open_in_best_precision(
    folder: Path, manifest: Manifest, options: SessionOptions, open_embedder: Callable[[SessionOptions], Embedder]
) -> Embedder:
    """Open an embedder. If it computes in less than float32, its golden vectors have to pass.

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
    if not bf16_units() or _is_quantized(manifest, in_fp32):
        return open_embedder(in_fp32)
    return _open_checked(folder, manifest, in_bf16, in_fp32, open_embedder)


def _verified(embedder: Embedder, folder: Path) -> Embedder:
    """Return ``embedder``. If it computes in less than float32, each load compares its golden vectors first."""
    reduced = find_reduced_precision(embedder.provider_options)
    miss = _find_miss(embedder, folder) if reduced else None
    if reduced and miss:
        embedder.close()
        raise ProviderError(f"the golden vectors are out of tolerance {reduced.cause} ({miss}); {reduced.way_out}")
    return embedder


def _find_miss(embedder: Embedder, folder: Path) -> str | None:
    """Return by how much the golden vectors are out of tolerance; ``None`` if they are not."""
    try:
        towers = verify_towers(embedder, folder)
    except NonFiniteError as exc:
        return str(exc)
    missed = [
        f"{name} {format_cosine(tower.agreement.min_cosine)}, at least {format_cosine(tower.tolerance.min_cosine)}"
        for name, tower in towers.items()
        if not tower.agreement.within(tower.tolerance)
    ]
    return f"min cosine: {'; '.join(missed)}" if missed else None


def _is_quantized(manifest: Manifest, options: SessionOptions) -> bool:
    """Return whether int8 will run. Its own tolerance applies then, not that of bfloat16."""
    provider, settings = PROVIDERS["openvino"], options.provider_options or OpenVinoOptions()
    towers = [tower for tower in manifest.towers.values() if "int8" in tower.variants]  # int8 cannot run for the others
    return any(choose_graph(tower, provider, settings, options.variant).name == "int8" for tower in towers)


def _openvino_options(options: SessionOptions) -> OpenVinoOptions | None:
    """Return the options that OpenVINO will use; ``None`` if another provider will run."""
    if options.provider == "auto" and PROVIDERS["openvino"] in available_providers():
        return OpenVinoOptions()  # its package has no provider that "auto" prefers
    if options.provider != "openvino":
        return None
    return options.provider_options if isinstance(options.provider_options, OpenVinoOptions) else OpenVinoOptions()


def _open_checked(
    folder: Path,
    manifest: Manifest,
    in_bf16: SessionOptions,
    in_fp32: SessionOptions,
    open_embedder: Callable[[SessionOptions], Embedder],
) -> Embedder:
    """Open in bfloat16 if the golden vectors pass, otherwise in float32. The result of the check is stored."""
    path = _result_path(manifest, in_bf16)
    result, embedder = _read_result(path), None
    if result is None:
        embedder = open_embedder(in_bf16)
        result = _check_bf16(embedder, folder)
        if path is not None:
            with suppress(OutputError):  # on a full disk, the next load repeats the check, which takes a second
                write_text(path, json.dumps(asdict(result)))
    if result.passes:
        return embedder or open_embedder(in_bf16)
    if embedder is not None:
        embedder.close()
    _LOG.warning("openvino computes in float32: in bfloat16, the golden vectors are at %s", result.figures)
    return open_embedder(in_fp32)


def _check_bf16(embedder: Embedder, folder: Path) -> Bf16Check:
    try:
        towers = verify_towers(embedder, folder).values()
    except EmbeddingBackbonesError as exc:
        return Bf16Check(passes=False, figures=str(exc))
    return Bf16Check(
        passes=all(tower.agreement.within(REDUCED_TOLERANCE) for tower in towers),
        figures=format_cosine(min(tower.agreement.min_cosine for tower in towers)),
    )


def _result_path(manifest: Manifest, options: SessionOptions) -> Path | None:
    """Return the file with the result for this artifact, these packages and this kind of CPU."""
    chosen = options.provider_options
    folder = usable_cache("openvino", chosen.cache_folder) if isinstance(chosen, OpenVinoOptions) else None
    key = [manifest.to_json(), installed_packages(), platform.machine(), sorted(bf16_units())]
    return Path(folder, f"bf16-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json") if folder else None


def _read_result(path: Path | None) -> Bf16Check | None:
    try:
        return Bf16Check(**json.loads(path.read_text("utf-8"))) if path else None
    except (OSError, ValueError, TypeError):  # missing or damaged: the check is repeated
        return None
