"""Verify that an artifact reproduces, on this machine, the vectors of its export."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import check_files, read_manifest
from runtime.errors import IntegrityError, VerificationError
from runtime.inference.embedder import Embedder
from runtime.loading.golden import EmbedItems, TowerVerification, describe_tower, verify_towers
from runtime.loading.load import load
from runtime.session.provider_options import ProviderOptions
from runtime.session.verdicts import settle


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of :func:`verify`: the active execution provider, the graph that ran, and each tower's agreement."""

    provider: str
    variant: str
    towers: Mapping[TowerName, TowerVerification]


def verify(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    provider_options: ProviderOptions | None = None,
    threads: int | None = None,
    concurrent_batches: int | None = None,
    variant: str = "auto",
) -> Verification:
    """Check the hash of every file, then embed the golden items and compare the vectors with those of the export.

    The arguments are those of :func:`runtime.load`.

    Raises:
        VerificationError: The vectors are out of tolerance. In less than float32, ``load`` refuses them before.
        IntegrityError: The manifest is wrong about whether the vectors have unit length.
        EmbeddingBackbonesError: As for :func:`runtime.load`.
    """
    folder = Path(path)
    check_files(folder, read_manifest(folder))  # all: ``load`` checks only those that it may open
    model = load(
        path,
        provider=provider,
        provider_options=provider_options,
        threads=threads,
        concurrent_batches=concurrent_batches,
        check_hashes=False,
        variant=variant,
    )
    return verify_model(model, folder)


def verify_model(model: Embedder, folder: Path, embed: EmbedItems | None = None) -> Verification:
    """Verify a model that was loaded from ``folder``; see :func:`verify` and :func:`verify_towers`."""
    towers = verify_towers(model, folder, embed)
    result = Verification(provider=model.provider, variant=model.variant, towers=towers)
    if not all(tower.agreement.within(tower.tolerance) for tower in result.towers.values()):
        found = describe_verification(result)
        raise VerificationError(f"the golden vectors are not reproduced: {found}; {_advice(model)}")
    _check_length(model, result)
    for name in result.towers:
        record = model.manifest.towers[name].variants.get(model.variants[name])
        if record is not None:
            settle(model.manifest.sha256, [record.graph], model.provider_options)
    return result


def _check_length(model: Embedder, result: Verification) -> None:
    for name, tower in result.towers.items():
        stated = model.manifest.towers[name].normalized
        if stated != tower.unit_length:
            raise IntegrityError(
                f"the manifest says normalized {str(stated).lower()} for the {name} tower, and its golden vectors "
                f"{'do not all' if stated else 'all'} have unit length; export the artifact again"
            )


def describe_verification(result: Verification) -> str:
    """Return the measurements of ``result`` and their bounds, in one line."""
    towers = (describe_tower(name, tower) for name, tower in result.towers.items())
    return f"{'; '.join(towers)}; provider {result.provider}, variant {result.variant}"


def _advice(model: Embedder) -> str:
    other = "another provider" if model.provider != "cpu" else "another version of onnxruntime"
    packages = ", ".join(f"{name} {version}" for name, version in model.manifest.provenance.packages.items())
    return f"try {other}; the artifact was exported with {packages}"
