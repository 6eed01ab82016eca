"""Add variants to an artifact: faster graphs for its towers, each with its accuracy measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from exporters.artifact_writer import README_FILE, new_artifact, record_files, write_manifest, write_readme, writing
from exporters.calibration.dataset import CalibrationDataset, load_calibration_dataset
from exporters.errors import DestinationError, VariantError
from exporters.progress import Stage, silent
from exporters.variants.batches import prepare_items
from exporters.variants.builder import VariantBuilder, VariantOutcome
from exporters.variants.options import DEFAULT_ITEMS, VariantOptions, variant_of
from exporters.variants.retrieval_dataset import RetrievalDataset, load_retrieval_dataset
from runtime.artifact.describe import describe_manifest
from runtime.artifact.external_data import check_external_data
from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.artifact.reader import check_files, read_manifest
from runtime.artifact.variants import Variant, VariantName
from runtime.atomic_write import finish_replacement
from runtime.errors import UsageError
from runtime.inference.tower import build_preprocessor
from runtime.session.providers import check_packages


def add_variants(artifact: Path, options: VariantOptions, *, stage: Stage = silent) -> list[VariantOutcome]:
    """Build variants of every tower of an artifact, and add those that pass the gate.

    A variant that fails leaves the artifact and any older variant of the same name unchanged.

    Returns:
        One outcome per tower and precision.

    Raises:
        VariantError: No variant was added, and at least one failed.
        UsageError: An option is invalid.
        ArtifactError: The artifact is damaged.
        DestinationError: The artifact cannot be written, or another process has changed it.
    """
    check_packages()
    floors = {precision: options.floors(precision) for precision in options.precisions}  # invalid floors raise here
    with writing(artifact, elsewhere=""):
        finish_replacement(artifact)
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    for tower in manifest.towers.values():
        graphs: list[Tower | Variant] = [tower, *tower.variants.values()]
        for each in graphs:
            check_external_data(artifact, each.graph, each.external_data)
    datasets = _load_datasets(options, manifest.towers)
    search = _load_search(options, manifest.towers)
    with stage("check items"):
        _check_items(artifact, manifest.towers, datasets)
    with new_artifact(artifact, force=True, elsewhere="") as folder:
        rebuilt = {variant_of(precision) for precision in options.precisions}
        outcomes, towers = list[VariantOutcome](), dict[TowerName, Tower]()
        with writing(artifact, elsewhere=""):
            _link_files(artifact, folder, manifest, rebuilt)
            for kind in manifest.towers:
                builder = VariantBuilder(folder, manifest, kind, options, datasets[kind], search, stage)
                built = [
                    _mention_older(builder.build(precision, floors[precision]), manifest.towers[kind])
                    for precision in options.precisions
                ]
                towers[kind] = builder.finish(_variants(artifact, folder, manifest.towers[kind], built))
                outcomes += built
                del builder  # its sessions map files, and Windows renames no folder of mapped files
        if all(outcome.variant is None for outcome in outcomes) and any(outcome.failed for outcome in outcomes):
            raise VariantError("; ".join(f"{each.tower} {each.name}: {each.reason}" for each in outcomes))
        with writing(artifact, elsewhere=""):
            updated = replace(manifest, towers=towers, files=record_files(folder))
            write_readme(folder, updated, describe_manifest(updated))
            write_manifest(folder, updated)
        if read_manifest(artifact).sha256 != manifest.sha256:
            raise DestinationError(f"{artifact} has changed while its variants were made; run the command again")
    return outcomes


def _mention_older(outcome: VariantOutcome, tower: Tower) -> VariantOutcome:
    """Say of a variant that was not written that the artifact keeps an older one of its name, if it does."""
    older = tower.variants.get(outcome.name)
    if outcome.variant or older is None:
        return outcome
    return replace(outcome, reason=f"{outcome.reason}; the older {outcome.name} of level {older.level} stays")


def _load_datasets(options: VariantOptions, towers: Collection[TowerName]) -> dict[TowerName, CalibrationDataset]:
    datasets = dict[TowerName, CalibrationDataset]()
    for kind in towers:
        items = DEFAULT_ITEMS[kind] if options.items is None else options.items
        try:
            datasets[kind] = load_calibration_dataset(kind, options.calibration, items, exact=options.items is not None)
        except UsageError as exc:
            if options.calibration is None or len(towers) == 1:
                raise
            raise UsageError(f"{exc}. For {' and '.join(towers)}, the folder has to hold both") from exc
    return datasets


def _check_items(
    artifact: Path, towers: Mapping[TowerName, Tower], datasets: Mapping[TowerName, CalibrationDataset]
) -> None:
    """Name an item that cannot be embedded, before the variants of another tower take minutes."""
    for kind, tower in towers.items():
        preprocessor, dataset = build_preprocessor(tower.preprocessing, artifact, 1), datasets[kind]
        for items in (dataset.calibration, dataset.held_out):
            prepare_items(preprocessor.prepare_all, items, dataset.source)


def _load_search(options: VariantOptions, towers: Collection[TowerName]) -> RetrievalDataset | None:
    if options.queries is None or options.qrels is None:
        return None
    corpus = options.corpus or options.queries.parent / "corpus.jsonl"
    return load_retrieval_dataset(options.queries, corpus, options.qrels, towers)


def _link_files(artifact: Path, folder: Path, manifest: Manifest, rebuilt: set[VariantName]) -> None:
    """Link the files of ``artifact`` that stay unchanged into ``folder``."""
    variants = [tower.variants[name] for tower in manifest.towers.values() for name in rebuilt & tower.variants.keys()]
    replaced = {name for variant in variants for name in variant.files()}
    weights = {tower.external_data for tower in manifest.towers.values() if tower.external_data}
    for name in manifest.files.keys() - (replaced - weights) - {README_FILE}:
        if name in weights:
            shutil.copyfile(artifact / name, folder / name)  # onnx_ir reads no weights from a file with two hard links
        else:
            _link(artifact / name, folder / name)


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _variants(
    artifact: Path, folder: Path, tower: Tower, built: Sequence[VariantOutcome]
) -> dict[VariantName, Variant]:
    """Return the variants of ``tower`` with the new ones; the older variant stays if the new one failed."""
    variants = dict(tower.variants)
    for outcome in built:
        old = variants.get(outcome.name)
        if outcome.variant is not None:
            variants[outcome.name] = outcome.variant
        elif old is not None:
            for name in set(old.files()) - {tower.external_data}:
                _link(artifact / name, folder / name)
    return variants
