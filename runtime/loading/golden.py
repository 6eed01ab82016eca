"""Embed the golden items again, and compare the vectors with those of the export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from runtime.array_types import Array
from runtime.artifact.manifest import TowerName
from runtime.artifact.parity import (
    REDUCED_TOLERANCE,
    Agreement,
    Tolerance,
    format_cosine,
    has_unit_length,
    measure_agreement,
    variant_tolerance,
)
from runtime.errors import ManifestError
from runtime.inference.embedder import Embedder
from runtime.inference.truncation import without_truncation_warning
from runtime.loading.golden_file import read_golden
from runtime.session.provider_options import find_reduced_precision


@dataclass(frozen=True, kw_only=True)
class TowerVerification:
    """The agreement of one tower with the export's vectors of some golden items, and the bounds of the agreement."""

    items: int
    agreement: Agreement
    tolerance: Tolerance
    unit_length: bool  # whether the export's vectors have unit length


EmbedItems: TypeAlias = Callable[[Sequence[Any], TowerName], Array]


def verify_towers(model: Embedder, folder: Path, embed: EmbedItems | None = None) -> dict[TowerName, TowerVerification]:
    """Embed the golden items in ``folder`` with each tower of ``model``, and compare the vectors with the export's.

    ``embed`` returns the vectors of items for a tower, by default with the model's own method.

    Raises:
        ManifestError: The manifest records no bounds.
        EmbeddingBackbonesError: The golden items cannot be read or embedded.
    """
    embed = embed or (lambda items, tower: model.embed(items, tower=tower))
    return {name: _verify_tower(model, folder, name, embed) for name in model.towers}


def _verify_tower(model: Embedder, folder: Path, name: TowerName, embed: EmbedItems) -> TowerVerification:
    tolerance = find_tolerance(model, name)
    items, reference = read_golden(folder, model.manifest, name)
    with without_truncation_warning():
        vectors = embed(items, name)
    return TowerVerification(
        items=len(items),
        agreement=measure_agreement(reference, vectors),
        tolerance=tolerance,
        unit_length=has_unit_length(reference),
    )


def find_tolerance(model: Embedder, name: TowerName) -> Tolerance:
    """Return the bounds of the export, of a reduced precision, or of the variant that runs.

    Raises:
        ManifestError: The manifest records no bounds.
    """
    parity = model.manifest.towers[name].parity
    if parity is None:
        raise ManifestError(f"{model.manifest.name} records no parity to compare with; export it again")
    variant = model.manifest.towers[name].variants.get(model.variants[name])
    if find_reduced_precision(model.provider_options) and (variant is None or variant.precision == "fp32"):
        return REDUCED_TOLERANCE
    if variant is None:
        return parity.tolerance
    return variant_tolerance(variant)


def describe_tower(name: TowerName, tower: TowerVerification) -> str:
    """Return the measurements of a tower and their bounds, in one line."""
    measured, bound = tower.agreement, tower.tolerance
    return (
        f"{name} min cosine {format_cosine(measured.min_cosine)} (at least {format_cosine(bound.min_cosine)}), "
        f"max abs error {measured.max_abs_error:.2g} (at most {bound.max_error * measured.reference_scale:.2g}), "
        f"{tower.items} items"
    )
