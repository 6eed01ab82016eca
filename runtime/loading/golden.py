"""Embed the golden items again, and compare the vectors with those of the export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_types import Array
from runtime.artifact.manifest import GOLDEN_FILE, Parity, Tolerance, TowerName
from runtime.artifact.parity import BF16_TOLERANCE, Agreement, measure_agreement
from runtime.errors import IntegrityError, ManifestError
from runtime.inference.embedder import Embedder, without_truncation_warning
from runtime.session.provider_options import OpenVinoOptions


@dataclass(frozen=True, kw_only=True)
class TowerVerification:
    """The agreement of one tower with the export's vectors of some golden items, and the bounds of the agreement."""

    items: int
    agreement: Agreement
    tolerance: Tolerance


def verify_towers(model: Embedder, folder: Path) -> dict[TowerName, TowerVerification]:
    """Embed the golden items in ``folder`` with each tower of ``model``, and compare the vectors with the export's.

    Raises:
        ManifestError: The manifest records no bounds.
        EmbeddingBackbonesError: The golden items cannot be read or embedded.
    """
    return {name: _verify_tower(model, folder, name) for name in model.towers}


def _verify_tower(model: Embedder, folder: Path, name: TowerName) -> TowerVerification:
    parity = model.manifest.towers[name].parity
    if parity is None:
        raise ManifestError(f"{folder} records no parity to compare with; export it again")
    items, reference = read_golden(folder, name, model.output_dim)
    with without_truncation_warning():
        vectors = model.embed(items, tower=name)
    return TowerVerification(
        items=len(items), agreement=measure_agreement(reference, vectors), tolerance=_tolerance(model, name, parity)
    )


def _tolerance(model: Embedder, name: TowerName, parity: Parity) -> Tolerance:
    """Return the bounds of the export, of bfloat16, or of the variant that runs."""
    if isinstance(model.provider_options, OpenVinoOptions) and model.provider_options.dtype == "bf16":
        return BF16_TOLERANCE
    variant = model.manifest.towers[name].variants.get(model.variants[name])
    if variant is None:
        return parity.tolerance
    return Tolerance(min_cosine=variant.parity.floors.min_cosine, max_error=1.0, max_distance_share=1.0)


def read_golden(folder: Path, tower: TowerName, output_dim: int) -> tuple[list[Any], Array]:
    """Read the golden items, as ``Embedder.embed`` takes them, and their ``[items, output_dim]`` vectors.

    Raises:
        IntegrityError: The file is damaged, or does not have these arrays.
    """
    path = folder / GOLDEN_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as golden:
            vectors = golden[f"{tower}_embedding"]
            items = [golden[f"{tower}_{index}"] for index in range(len(vectors))]
    except Exception as exc:  # zipfile, zlib and numpy raise many types for a damaged file
        raise IntegrityError(f"cannot read {path} ({exc}); export the artifact again") from exc
    if not items or vectors.shape != (len(items), output_dim):
        shape = list(vectors.shape)
        raise IntegrityError(f"{path} has vectors of shape {shape}, expected [items, {output_dim}]; export it again")
    return [item.item() if item.dtype.kind == "U" else item for item in items], vectors
