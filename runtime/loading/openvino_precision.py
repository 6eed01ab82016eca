"""In what OpenVINO computes: bfloat16 where the CPU has units for it and the artifact's golden vectors allow it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.artifact.manifest import Manifest
from runtime.artifact.parity import BF16_TOLERANCE, near_one
from runtime.errors import EmbeddingBackbonesError, ProviderError
from runtime.inference.embedder import Embedder
from runtime.loading.golden import verify_towers
from runtime.machine.cache_folder import usable_cache
from runtime.machine.cpu import bf16_units
from runtime.session.provider_options import OpenVinoOptions
from runtime.session.providers import PROVIDERS, available_providers, installed_packages
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import choose_graph

_LOG = logging.getLogger("runtime")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was found of bfloat16 for one artifact on one machine.

    Attributes:
        passes: Whether the golden vectors keep :data:`runtime.artifact.parity.BF16_TOLERANCE`.
        figures: The smallest cosine similarity to torch's, for a person.
    """

    passes: bool
    figures: str


def load_fittest(
    folder: Path, manifest: Manifest, options: SessionOptions, open_embedder: Callable[[SessionOptions], Embedder]
) -> Embedder:
    """Returns an embedder in bfloat16 if it may be, else in float32; for other providers what ``options`` say.

    Args:
        folder: The artifact's folder.
        manifest: Its record.
        options: How to load, settled.
        open_embedder: Loads by the options that it is given.

    Raises:
        ProviderError: bfloat16 is asked for on a CPU without units for it.
        EmbeddingBackbonesError: What ``open_embedder`` raises.
    """
    chosen = _openvino_options(options)
    if chosen is None or chosen.dtype == "fp32":
        return open_embedder(options)
    reason = "auto: the installed onnxruntime brings it" if options.provider == "auto" else options.reason
    options = replace(options, provider="openvino", reason=reason)
    in_bf16, in_fp32 = (replace(options, provider_options=replace(chosen, dtype=name)) for name in ("bf16", "fp32"))
    if _is_quantized(manifest, in_fp32):
        return open_embedder(in_fp32)
    units = bf16_units()
    if chosen.dtype == "bf16":
        if not units:
            raise ProviderError(
                "this CPU has no units for bfloat16 (AMX or AVX512-BF16), and OpenVINO would emulate them, a hundred "
                "times slower than float32; take dtype fp32"
            )
        return open_embedder(in_bf16)
    if "amx_bf16" not in units:
        return open_embedder(in_fp32)
    return _decide(folder, manifest, in_bf16, in_fp32, open_embedder)


def _is_quantized(manifest: Manifest, options: SessionOptions) -> bool:
    """Tells whether int8 is going to run, whose own figures count and not those of bfloat16."""
    provider, settings = PROVIDERS["openvino"], options.provider_options or OpenVinoOptions()
    towers = [tower for tower in manifest.towers.values() if "int8" in tower.variants]  # the only ones it can run for
    return any(choose_graph(tower, provider, settings, options.variant).name == "int8" for tower in towers)


def _openvino_options(options: SessionOptions) -> OpenVinoOptions | None:
    """Returns the options by which OpenVINO will run, ``None`` if another provider will."""
    if options.provider == "auto" and PROVIDERS["openvino"] in available_providers():
        return OpenVinoOptions()  # its package brings no other that "auto" would prefer
    if options.provider != "openvino":
        return None
    return options.provider_options if isinstance(options.provider_options, OpenVinoOptions) else OpenVinoOptions()


def _decide(
    folder: Path,
    manifest: Manifest,
    in_bf16: SessionOptions,
    in_fp32: SessionOptions,
    open_embedder: Callable[[SessionOptions], Embedder],
) -> Embedder:
    """Tries bfloat16 by the golden vectors, unless it is known from an earlier start how that ends."""
    memory = _memory(manifest, in_bf16)
    found = _recall(memory)
    embedder = None
    if found is None:
        embedder = open_embedder(in_bf16)
        found = _measure(embedder, folder)
        _remember(memory, found)
    if found.passes:
        return embedder or open_embedder(in_bf16)
    if embedder is not None:
        embedder.close()
    _LOG.warning("openvino computes in float32, since in bfloat16 the golden vectors are at %s", found.figures)
    return open_embedder(in_fp32)


def _measure(embedder: Embedder, folder: Path) -> Decision:
    try:
        towers = verify_towers(embedder, folder).values()
    except EmbeddingBackbonesError as exc:
        return Decision(passes=False, figures=str(exc))
    return Decision(
        passes=all(tower.agreement.within(BF16_TOLERANCE) for tower in towers),
        figures=near_one(min(tower.agreement.min_cosine for tower in towers)),
    )


def _memory(manifest: Manifest, options: SessionOptions) -> Path | None:
    """Returns the file that remembers the decision for this artifact, these packages, and this kind of CPU."""
    chosen = options.provider_options
    folder = usable_cache("openvino", chosen.cache_folder) if isinstance(chosen, OpenVinoOptions) else None
    known = [manifest.to_json(), installed_packages(), platform.machine(), sorted(bf16_units())]
    return Path(folder, f"bf16-{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]}.json") if folder else None


def _recall(memory: Path | None) -> Decision | None:
    try:
        return Decision(**json.loads(memory.read_text())) if memory else None
    except (OSError, ValueError, TypeError):  # not there, or half-written: it is found again
        return None


def _remember(memory: Path | None, decision: Decision) -> None:
    if memory is None:
        return
    partial = memory.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps({"passes": decision.passes, "figures": decision.figures}))
        partial.replace(memory)
    except OSError:  # a full disk costs the next start a second
        partial.unlink(missing_ok=True)
