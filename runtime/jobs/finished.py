"""Check that a finished output is that of the job that asks to resume it."""

from __future__ import annotations

import numpy as np

from runtime.artifact.manifest import Manifest
from runtime.artifact.space import parent_space
from runtime.errors import SpaceError, UsageError
from runtime.jobs.journal import check_same
from runtime.jobs.origin import VectorOrigin, list_settings, read_origin
from runtime.jobs.read_vectors import find_ranges
from runtime.jobs.run import EmbedJob


def check_finished(job: EmbedJob, manifest: Manifest, *, variant: str, reduced_precision: bool | None) -> bool:
    """Check that the output of ``job`` is of its artifact, or a quantized form of it, and was made with its settings.

    Args:
        job: The job that is asked for. Its output exists.
        manifest: The manifest of its artifact.
        variant: The variant that is asked for. All variants fit ``auto``.
        reduced_precision: Whether less than float32 is asked for. Both fit ``None``.

    Returns:
        Whether the file tells how it was made; a .npy does not.

    Raises:
        SpaceError: It is of another space.
        UsageError: It was made from other inputs or with other options, or cannot be read.
    """
    origin = read_origin(job.output.path)
    if origin is not None:
        _check_space(job, manifest, origin)
        asked = list_settings(
            job.options,
            manifest.select_towers(job.options.tower),
            inputs=job.inputs,
            column=job.column,
            dtype=job.output.dtype,
        )
        if variant != "auto":
            asked["variant"] = variant
        if reduced_precision is not None:
            asked["reduced_precision"] = reduced_precision
        begun = {name: getattr(origin, name) for name in asked}
        check_same(f"{job.output.path} is finished, but it", begun, asked, "name another output")
    _check_ranges(job)
    return origin is not None


def _check_space(job: EmbedJob, manifest: Manifest, origin: VectorOrigin) -> None:
    made_in, space = origin.space, manifest.space
    if made_in is not None and space is not None and parent_space(made_in) != space.id:
        raise SpaceError(
            f"{job.output.path} is finished, but by another artifact: it is of the space {made_in} "
            f"({origin.artifact}), and {manifest.name} embeds in {space.id}; name another output, or embed everything "
            "again with --force and without --resume"
        )


def _check_ranges(job: EmbedJob) -> None:
    """Check the ranges of int8 in the output, or beside it, if the job gives ranges."""
    asked = job.output.ranges
    if asked is None:
        return
    found = find_ranges(job.output.path)
    if found is None or not np.array_equal(found.astype(np.float32), asked.astype(np.float32)):
        raise UsageError(
            f"{job.output.path} is finished, but it is another job: its ranges are not those of --ranges; name another "
            "output, or start again with --force and without --resume"
        )
