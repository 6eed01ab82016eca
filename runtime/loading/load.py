"""Load an artifact."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.reader import check_files, read_manifest
from runtime.errors import ProviderError
from runtime.inference.embedder import Backend, Embedder, check_tower
from runtime.inference.pipeline import Pipeline
from runtime.loading.openvino_precision import load_fittest
from runtime.loading.tuning_store import Tuning, recall
from runtime.session.provider_options import ProviderOptions
from runtime.session.session import SessionOptions

_LOG = logging.getLogger("runtime")


def load(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    provider_options: ProviderOptions | None = None,
    threads: int | None = None,
    workers: int | None = None,
    device_ids: Sequence[int] | None = None,
    check_hashes: bool = True,
    tower: TowerName | None = None,
    variant: str = "auto",
) -> Embedder:
    """Loads an artifact.

    Where ``python -m runtime tune`` has found on this machine what is fastest for the artifact, that is done: provider,
    variant and threads, and for images and meshes the size of a batch; ``model.provider_reason`` and
    ``model.variant_reason`` say so. It is done only if the caller leaves all of it open: ``provider``,
    ``provider_options``, ``threads``, ``workers``, ``device_ids`` or ``variant``, given, sets the tuning aside as a
    whole. One of another artifact, onnxruntime, CPU, number of allowed threads or GPU counts for nothing, and so does
    that of a single tower where two are loaded. ``batch_size`` of :meth:`Embedder.embed` comes before the tuned one.

    Args:
        path: The artifact's folder.
        provider: ``cpu``, ``cuda``, ``tensorrt``, ``openvino``, or ``auto``: the first of cuda, openvino, cpu that
            works here. A provider that is named is used or refused, never replaced.
        provider_options: Settings of the provider: :class:`runtime.CudaOptions`, say.
        threads: Threads of one run; by default as many as affinity mask and container quota allow. With workers, of
            all of them together.
        workers: Processes that embed side by side, each with a session of its own and its share of the threads; by
            default the graph runs in this process. A script that uses them needs ``if __name__ == "__main__":``.
        device_ids: GPUs, for a worker each.
        check_hashes: Whether to compare every file with its recorded hash.
        tower: The only tower to load, ``text`` or ``image``, where there are two; by default all.
        variant: Which of the artifact's graphs to run: ``fp32``, as it was exported, ``optimized``, ``fp16``, ``int8``;
            or ``auto``, for each tower the fastest on this machine and provider among those that have passed their
            floors (see :mod:`runtime.session.variant_selection`).

    Raises:
        ArtifactError: The folder is not an artifact, is damaged, or is of another schema.
        ProviderError: The provider is not usable; the message names the cause.
        MissingDependencyError: No onnxruntime is installed.
        UsageError: There is no such provider or tower, or an argument cannot be right.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if tower is not None:
        check_tower(tower, manifest.towers)
    options = SessionOptions(provider=provider, provider_options=provider_options, threads=threads, variant=variant)
    untouched = options == SessionOptions() and workers is None and device_ids is None
    tuning = _recall_tuning(manifest, tower) if untouched else None
    options = options.resolved()

    def open_embedder(options: SessionOptions) -> Embedder:
        return Embedder(manifest, _start(folder, manifest, tower, options, workers, device_ids))

    with _hashes_checked(folder, manifest) if check_hashes else nullcontext():
        if tuning is not None:
            try:
                return load_fittest(folder, manifest, tuning.session_options().resolved(), open_embedder)
            except ProviderError as exc:
                _LOG.warning("what was tuned on this machine on %s is passed over: %s", tuning, exc)
        return load_fittest(folder, manifest, options, open_embedder)


def _recall_tuning(manifest: Manifest, tower: TowerName | None) -> Tuning | None:
    towers = list(manifest.towers) if tower is None else [tower]
    return recall(manifest, towers[0]) if len(towers) == 1 else None


def _start(
    folder: Path,
    manifest: Manifest,
    tower: TowerName | None,
    options: SessionOptions,
    workers: int | None,
    device_ids: Sequence[int] | None,
) -> Backend:
    towers = manifest.towers if tower is None else {tower: manifest.towers[tower]}
    if workers is None and device_ids is None:
        return Pipeline(folder, towers, manifest.output_dim, options)
    from runtime.inference.workers import Workers, divide

    return Workers(folder, towers, manifest.output_dim, divide(options, workers, device_ids))


@contextmanager
def _hashes_checked(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Checks every file beside what is done in the block. What is damaged explains more than what comes of it."""
    with ThreadPoolExecutor(1) as executor:
        checked = executor.submit(check_files, folder, manifest)
        try:
            yield
        finally:
            checked.result()
