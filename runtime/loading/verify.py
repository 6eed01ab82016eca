"""verify(): does this artifact give, on this machine, the vectors that torch gave at export?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.artifact.manifest import GOLDEN_FILE, Parity, Tolerance, TowerName
from runtime.artifact.parity import BF16_TOLERANCE, Agreement, measure_agreement, near_one
from runtime.errors import IntegrityError, ManifestError, VerificationError
from runtime.inference.embedder import Embedder, load, quiet
from runtime.session.provider_options import OpenVinoOptions, ProviderOptions


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


@dataclass(frozen=True, kw_only=True)
class Verification:
    """An artifact's golden items, embedded here.

    Attributes:
        provider: Execution provider that was used.
        variant: The graph that ran.
        towers: The figures of each tower.
    """

    provider: str
    variant: str
    towers: Mapping[TowerName, TowerVerification]


def verify(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    provider_options: ProviderOptions | None = None,
    threads: int | None = None,
    variant: str = "auto",
) -> Verification:
    """Checks the hash of every file, then embeds the golden items and compares them with torch's vectors.

    Args:
        path: The artifact's folder.
        provider: As for :func:`runtime.load`.
        provider_options: As for :func:`runtime.load`.
        threads: As for :func:`runtime.load`.
        variant: As for :func:`runtime.load`.

    Raises:
        VerificationError: The vectors are out of tolerance.
        EmbeddingBackbonesError: Whatever :func:`runtime.load` raises.
    """
    model = load(path, provider=provider, provider_options=provider_options, threads=threads, variant=variant)
    result = Verification(provider=model.provider, variant=model.variant, towers=verify_towers(model, Path(path)))
    if not all(tower.agreement.within(tower.tolerance) for tower in result.towers.values()):
        raise VerificationError(
            f"the golden vectors are not reproduced: {describe_verification(result)}; {_way_out(model)}"
        )
    return result


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


def describe_verification(result: Verification) -> str:
    """Returns the figures of ``result`` beside their bounds, in one line."""
    towers = (_describe_tower(name, tower) for name, tower in result.towers.items())
    return f"{'; '.join(towers)}; provider {result.provider}, variant {result.variant}"


def _describe_tower(name: TowerName, tower: TowerVerification) -> str:
    measured, bound = tower.agreement, tower.tolerance
    return (
        f"{name} min cosine {near_one(measured.min_cosine)} (at least {near_one(bound.min_cosine)}), max abs error "
        f"{measured.max_abs_error:.2g} (at most {bound.max_error * measured.reference_scale:.2g}), {tower.items} items"
    )


def _way_out(model: Embedder) -> str:
    other = "another provider" if model.provider != "cpu" else "another version of onnxruntime"
    packages = ", ".join(f"{name} {version}" for name, version in model.manifest.provenance.packages.items())
    return f"try {other}; it was exported with {packages}"
