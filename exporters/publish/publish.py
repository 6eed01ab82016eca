"""Publish an artifact: write layouts, prove them, and move them into place together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporters.artifact_writer import new_artifact, writing
from exporters.errors import DestinationError, PublishError
from exporters.progress import Stage, silent
from exporters.publish import clip_js, fastembed, huggingface, immich, opensearch, openvino, single, triton
from exporters.publish.card import write_card
from exporters.publish.layout import Layout
from exporters.publish.source import Source
from runtime.artifact.reader import check_files, read_manifest
from runtime.artifact.variants import VariantName
from runtime.errors import UsageError

LAYOUTS: Mapping[str, Layout] = {
    each.LAYOUT.name: each.LAYOUT
    for each in (huggingface, openvino, single, clip_js, immich, triton, opensearch, fastembed)
}


def publish(
    artifact: Path,
    layouts: Sequence[str],
    output: Path,
    *,
    variants: Sequence[VariantName] = (),
    token_types: bool = False,
    stage: Stage = silent,
) -> list[Path]:
    """Write an artifact in other layouts. Nothing is left in ``output`` unless all of them are proven.

    Args:
        artifact: Folder of the artifact.
        layouts: Names of :data:`LAYOUTS`.
        output: Folder to make; each layout gets a folder of its name in it.
        variants: The variants to publish; by default all that a layout takes, or fp32 if it holds one graph. The README
            of a layout opens the first one.
        token_types: Whether text graphs get an input ``token_type_ids``, which they ignore. All layouts must take it.
        stage: Called with the name of each layout; the work runs in the context manager that it returns.

    Returns:
        The folders of the layouts.

    Raises:
        UsageError: A layout does not take ``token_types``.
        PublishError: The artifact cannot have a layout, or a layout does not give the vectors of the artifact.
        DestinationError: ``output`` exists, or cannot be written.
        ArtifactError: The artifact is damaged.
        MissingDependencyError: A layout needs a package that is not installed.
    """
    if os.path.lexists(output):
        raise DestinationError(f"{output} exists; remove it, or give -o another folder")
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    distinct = tuple(dict.fromkeys(variants))
    source = Source(folder=artifact, manifest=manifest, variants=distinct, token_types=token_types)
    chosen = [LAYOUTS[name] for name in dict.fromkeys(layouts)]
    for layout in chosen:
        if obstacle := layout.find_obstacle(source):
            raise PublishError(f"{artifact} cannot have the layout {layout.name}: {obstacle}")
        if token_types and not layout.takes_token_types:
            raise UsageError(f"the layout {layout.name} takes no --token-type-ids; leave that out, or the layout")
    with new_artifact(output, force=False) as folder, writing(output):
        for layout in chosen:
            with stage(layout.name):
                place = folder / layout.name
                place.mkdir()
                try:
                    card = layout.write(source, place)
                except PublishError as exc:
                    raise PublishError(f"{layout.name}: {exc}") from exc
                write_card(source, layout, card, place)
    return [output / layout.name for layout in chosen]
