"""Check that a finished output is that of the job that asks to resume it."""

from __future__ import annotations

import numpy as np

from runtime.array_types import Array
from runtime.artifact.manifest import Manifest
from runtime.artifact.space import parent_space
from runtime.errors import SpaceError, UsageError
from runtime.jobs.journal import check_same
from runtime.jobs.origin import VectorOrigin, list_settings, read_origin
from runtime.jobs.read_vectors import find_ranges
from runtime.jobs.run import EmbedJob
from runtime.postprocess import quantize

_WAY_OUT = "name another output, or start again with --force and without --resume"


def check_finished(job: EmbedJob, manifest: Manifest, *, variant: str, precision: str | None) -> bool:
    """Check that the output of ``job`` is of its artifact, or a quantized form of it, and was made with its settings.

    Of a .npy, which holds only vectors, check that they have the type and the length that are asked for.

    Args:
        job: The job that is asked for. Its output exists.
        manifest: The manifest of its artifact.
        variant: The variant that is asked for. All variants fit ``auto``.
        precision: The :attr:`VectorOrigin.precision` that is asked for. All fit ``None``.

    Returns:
        Whether the file tells which job made it; a .npy does not.

    Raises:
        SpaceError: It is of another space.
        UsageError: It was made from other inputs or with other options, is of no job, or cannot be read.
    """
    path = job.output.path
    if not job.output.has_names:
        _check_vectors(job, manifest)
        return False
    origin = read_origin(path)
    if origin is None:
        raise UsageError(f"{path} is not the output of a job: it has no record of one; {_WAY_OUT}")
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
    if precision is not None:
        asked["precision"] = precision
    begun = {name: getattr(origin, name) for name in asked}
    check_same(f"{path} is finished, but it", begun, asked, "name another output")
    _check_ranges(job)
    return True


def _check_vectors(job: EmbedJob, manifest: Manifest) -> None:
    path, dim = job.output.path, job.options.truncate_dim or manifest.output_dim
    expected = quantize(np.zeros((1, dim), np.float32), job.output.dtype)
    try:
        found: Array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as exc:
        raise UsageError(f"{path} cannot be read as vectors ({exc}); {_WAY_OUT}") from exc
    if (found.dtype, found.shape[1:]) != (expected.dtype, expected.shape[1:]):
        raise UsageError(
            f"{path} is not the output of this job: it holds {found.dtype} {list(found.shape)}, but "
            f"{expected.dtype} [rows, {expected.shape[1]}] is expected; {_WAY_OUT}"
        )


def _check_space(job: EmbedJob, manifest: Manifest, origin: VectorOrigin) -> None:
    if parent_space(origin.space) != manifest.space.id:
        raise SpaceError(
            f"{job.output.path} is finished, but by another artifact: it is of the space {origin.space} "
            f"({origin.artifact}), and {manifest.name} embeds in {manifest.space.id}; {_WAY_OUT}"
        )


def _check_ranges(job: EmbedJob) -> None:
    """Check the ranges of int8 in the output if the job gives ranges."""
    asked = job.output.ranges
    if asked is None:
        return
    found = find_ranges(job.output.path)
    if found is None or not np.array_equal(found.astype(np.float32), asked.astype(np.float32)):
        raise UsageError(
            f"{job.output.path} is finished, but it is another job: its ranges are not those of --ranges; {_WAY_OUT}"
        )
