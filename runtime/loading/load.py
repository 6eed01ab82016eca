"""Load an artifact."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from runtime.artifact.manifest import Manifest, Tower, TowerName
from runtime.artifact.reader import check_files, read_manifest
from runtime.background import start_in_background
from runtime.errors import ProviderError, UsageError
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import CheckPipeline, Pipeline
from runtime.inference.workers import Workers, split_options
from runtime.loading.gpu_check import verify_once_on_gpu
from runtime.loading.reduced_precision import open_in_best_precision
from runtime.loading.tuning_store import read_tuning
from runtime.session.provider_options import ProviderOptions
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import find_possible_variants

_LOG = logging.getLogger("runtime")


def load(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    provider_options: ProviderOptions | None = None,
    threads: int | None = None,
    concurrent_batches: int | None = None,
    workers: int | None = None,
    device_ids: Sequence[int] | None = None,
    check_hashes: bool = True,
    tower: TowerName | None = None,
    variant: str = "auto",
) -> Embedder:
    """Load an artifact.

    ``load`` applies the settings that ``python -m runtime tune`` stored for the artifact on this machine: provider,
    variant and threads, and the batch size for images and meshes. ``model.provider_reason`` and
    ``model.variant_reason`` name stored settings as the reason.

    Stored settings are ignored if the artifact, the onnxruntime version, the CPU, the thread limit or the GPU differs.
    With a GPU, its driver, CUDA and cuDNN count, too. If the settings were found on the same kind of CPU, a warning
    names the difference. They are also ignored if two towers are loaded. The call also ignores them if it names a
    provider, provider options, threads, concurrent batches, workers, GPUs or a variant. The ``batch_size`` of
    :meth:`Embedder.embed` overrides the stored one.

    A pickle or copy of the model holds the absolute path of the folder and the arguments, and loads them anew.

    Args:
        path: Folder of the artifact.
        provider: ``cpu``, ``cuda``, ``tensorrt``, ``openvino`` or ``auto``. ``auto`` uses the first of cuda, openvino
            and cpu that works. ``load`` never replaces a named provider: it fails if the provider is not usable.
        provider_options: Settings of the provider, for example :class:`runtime.CudaOptions`.
        threads: Threads to use, shared by all workers. By default, as many as the affinity mask and the container
            quota allow.
        concurrent_batches: Number of batches that run side by side, each on its share of the threads, if a call has
            that many batches. A batch alone takes all threads. By default, one batch per thread. Only for ``cpu``, and
            without ``memory_limit_bytes``.
        workers: Number of processes that embed side by side, each with its own session and its share of the threads.
            By default, the graph runs in this process. A script with workers needs ``if __name__ == "__main__":``.
        device_ids: GPUs, one per worker.
        check_hashes: Whether to compare every file that this load may open with its recorded hash. A variant that does
            not run, or the graph of another tower, is not read; :func:`runtime.verify` compares all files.
        tower: The only tower to load, ``text`` or ``image``, of an artifact with two; by default all towers.
        variant: Graph to run: ``fp32`` (as exported), ``optimized``, ``fp16``, ``int8``, ``compact`` or ``auto``.
            ``auto`` chooses a variant for each tower from CPU and GPU features; see
            :mod:`runtime.session.variant_selection`.

    Raises:
        ArtifactError: The folder is not an artifact, is damaged, or has another schema version.
        ProviderError: The provider is not usable; the message names the cause. Or the golden vectors are missed, by the
            named variant on this GPU, or in a precision below float32.
        MissingDependencyError: onnxruntime is not installed.
        UsageError: The provider or the tower does not exist, or an argument is invalid.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"the path of an artifact is {path!r:.80}, it must be a string or a pathlib.Path")
    folder = Path(path)
    manifest = read_manifest(folder)
    towers = manifest.select_towers(tower)
    session: dict[str, Any] = {
        "provider": provider,
        "provider_options": provider_options,
        "threads": threads,
        "concurrent_batches": concurrent_batches,
        "variant": variant,
    }
    options = SessionOptions(**session)
    in_this_process = workers is None and device_ids is None
    tunable = in_this_process and options == SessionOptions() and len(towers) == 1
    tuning = read_tuning(manifest, next(iter(towers))) if tunable else None
    options = options.resolved()
    split = partial(split_options, workers=workers, device_ids=device_ids)
    load_again = partial(
        load,
        folder.absolute(),  # a process that unpickles the model may run in another folder
        workers=workers,
        device_ids=device_ids,
        check_hashes=check_hashes,
        tower=tower,
        **session,
    )

    def open_embedder(options: SessionOptions, check: CheckPipeline | None) -> Embedder:
        options, arguments = replace(options, artifact=manifest.sha256), (folder, towers, manifest.output_dim)
        if not in_this_process:
            return Embedder(manifest, Workers(*arguments, split(options), check), load_again)
        pipeline = Pipeline(*arguments, options)
        if check is not None:
            check(pipeline)
        return Embedder(manifest, pipeline, load_again)

    def open_verified(options: SessionOptions) -> Embedder:
        for share in dict.fromkeys(split(options)):
            verify_once_on_gpu(folder, manifest, towers, share)
        return open_in_best_precision(folder, manifest, towers, options, open_embedder)

    attempts = [options, tuning.session_options()] if tuning else [options]
    unused = _find_unused_files(manifest, towers, attempts)
    with _checking_hashes(folder, manifest, unused) if check_hashes else nullcontext():
        if tuning is not None:
            try:
                return open_verified(tuning.session_options().resolved())
            except ProviderError as exc:
                _LOG.warning("ignoring stored tuning (%s): %s", tuning, exc)
        return open_verified(options)


def _find_unused_files(
    manifest: Manifest, towers: Mapping[TowerName, Tower], attempts: Sequence[SessionOptions]
) -> set[str]:
    """Return the files of other towers, and of variants that none of the ``attempts`` to load ``towers`` may choose."""
    used = {
        name
        for tower in towers.values()
        for options in attempts
        for name in tower.files(find_possible_variants(tower, options.provider, options.variant))
    }
    return {name for tower in manifest.towers.values() for name in tower.files()} - used


@contextmanager
def _checking_hashes(folder: Path, manifest: Manifest, unused: Collection[str]) -> Iterator[None]:
    """Check the hashes of the files that are not ``unused`` in another thread, while the block runs.

    A damaged file raises its error instead of the block's error, because damage is the more likely cause.
    """
    wait_for_check = start_in_background(partial(check_files, folder, manifest, unused))
    try:
        yield
    except Exception:
        wait_for_check()
        raise
    wait_for_check()
