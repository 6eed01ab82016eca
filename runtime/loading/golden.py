"""Golden items: embed them again, and compare with the vectors that torch gave at export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.artifact.manifest import GOLDEN_FILE, Parity, Tolerance, TowerName
from runtime.artifact.parity import BF16_TOLERANCE, Agreement, measure_agreement
from runtime.errors import IntegrityError, ManifestError
from runtime.inference.embedder import Embedder, quiet
from runtime.session.provider_options import OpenVinoOptions


@dataclass(frozen=True, kw_only=True)
class TowerVerification:
    """The golden items of one tower, embedded here.

    Attributes:
        items: Their number.
        agreement: Their vectors against those of torch.
        tolerance: The bounds, as recorded at export; those of bfloat16 where it is computed in that, and a variant's
            own floor.
    """

    items: int
    agreement: Agreement
    tolerance: Tolerance


def verify_towers(model: Embedder, folder: Path) -> dict[TowerName, TowerVerification]:
    """Returns how the golden vectors in ``folder`` come out of ``model``, for each of its towers.

    Raises:
        ManifestError: There are no figures to hold them to.
        EmbeddingBackbonesError: They cannot be read or embedded.
    """
    return {name: _verify_tower(model, folder, name) for name in model.towers}


def _verify_tower(model: Embedder, folder: Path, name: TowerName) -> TowerVerification:
    parity = model.manifest.towers[name].parity
    if parity is None:
        raise ManifestError(
            f"{folder} records no parity with torch, so there is nothing to hold it to; export it again"
        )
    items, reference = read_golden(folder, name, model.output_dim)
    with quiet():
        vectors = model.embed(items, tower=name)
    return TowerVerification(
        items=len(items), agreement=measure_agreement(reference, vectors), tolerance=_tolerance(model, name, parity)
    )


def _tolerance(model: Embedder, name: TowerName, parity: Parity) -> Tolerance:
    """Returns the bounds for what runs: those of the export, of bfloat16, or of the variant."""
    if isinstance(model.provider_options, OpenVinoOptions) and model.provider_options.dtype == "bf16":
        return BF16_TOLERANCE
    variant = model.manifest.towers[name].variants.get(model.variants[name])
    if variant is None:
        return parity.tolerance
    return Tolerance(min_cosine=variant.parity.floors.min_cosine, max_error=1.0, max_distance_share=1.0)


def read_golden(folder: Path, tower: TowerName, output_dim: int) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Returns the golden items, as ``Embedder.embed`` takes them, and their ``[items, output_dim]`` vectors.

    Raises:
        IntegrityError: The file holds something else.
    """
    path = folder / GOLDEN_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as golden:
            vectors = golden[f"{tower}_embedding"]
            items = [golden[f"{tower}_{index}"] for index in range(len(vectors))]
    except Exception as exc:  # zipfile, zlib and numpy raise whatever a damaged file makes them trip over
        raise IntegrityError(f"{path} cannot be read ({exc}); export the artifact again") from exc
    if not items or vectors.shape != (len(items), output_dim):
        raise IntegrityError(f"{path} holds vectors of shape {list(vectors.shape)}, not [items, {output_dim}]")
    return [item.item() if item.dtype.kind == "U" else item for item in items], vectors
