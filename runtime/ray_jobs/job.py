"""Run an embedding job on Ray Data: each actor holds one session, takes shards of the input, and writes a part of each.

Ray Data schedules the shards, restarts lost workers and hands their shards out again. Only shards (names and row
numbers) and their results pass through Ray. A repeated shard has the same rows and replaces the same part, so no row is
lost or doubled.
"""

# Ray Data's own readers, writers and checkpoints (ray 2.60) cannot keep the promises of this job:
# - Its readers return the file of a row but not the row's number. One unreadable row fails its whole block, which
#   max_errored_blocks then drops.
# - Its write tasks run outside the actors, so all vectors would pass through the object store. The files appear one by
#   one, and a failed job leaves them.
# - Its checkpoints (beta) need a column of unique IDs in the input, and a later run to complete the output.

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import read_manifest
from runtime.artifact.space import space_of
from runtime.console import progress_bar
from runtime.errors import ClusterError, EmbeddingBackbonesError, ItemError, UsageError
from runtime.inference.options import EmbedOptions
from runtime.inference.prompts import resolve_prompt
from runtime.ray_jobs.actor import AttemptCounter, ShardEmbedder, ShardResult, WorkerOptions
from runtime.ray_jobs.cluster import ClusterOptions, WorkerResources, import_ray, open_cluster
from runtime.ray_jobs.input_files import find_inputs
from runtime.ray_jobs.output import OutputFolder, part_schema
from runtime.ray_jobs.shards import Shard, cut
from runtime.ray_jobs.storage import absolute
from runtime.session.session import SessionOptions
from runtime.uris import public_name
from runtime.whole_number import is_whole

_SHARDS_PER_WORKER = 8  # so that all workers finish at about the same time
_MIN_ROWS = 64  # of a part
_MAX_ROWS: Mapping[TowerName, int] = {"text": 16_384, "image": 1024, "mesh": 1024}  # held in memory


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """A job on a Ray cluster: files in, a folder of parquet out.

    Attributes:
        artifact: The artifact's folder, at the same path on every machine of the cluster.
        inputs: Files, folders or patterns, as paths or URIs, of one format: .parquet, .txt (one item per line), .jsonl,
            or images or meshes.
        output: The folder of parquet to write: a path or URI that all machines share.
        column: Column of .parquet or key of .jsonl that holds the items; ``None``: the name of the tower.
        options: How items are embedded. With ``on_error="skip"``, the row of an unusable item stays, without a vector
            and with the reason in the column ``error``.
        cluster: The cluster and its workers.
        variant: Variant of the artifact's graph. ``auto`` is ``fp32`` here, so that different machines give vectors
            that can be compared. For the same reason, OpenVINO computes in float32.
        concurrent_batches: Batches that run side by side on each worker, at most as many as its threads; ``None``: see
            :func:`runtime.load`.
        rows_per_part: Maximum rows per output file; a lost worker repeats at most this many. It is rounded up to a
            multiple of 64 for files of lines. ``None``: a share of the input, from 64 to 16,384 texts or
            1,024 images or meshes.
        force: Whether to replace the output of an earlier job.
        progress: Whether to draw a progress bar on standard error.
    """

    artifact: str | Path
    inputs: Sequence[str]
    output: str
    column: str | None = None
    options: EmbedOptions = field(default_factory=EmbedOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    variant: str = "auto"
    concurrent_batches: int | None = None
    rows_per_part: int | None = None
    force: bool = False
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class RayJobResult:
    """The counts of a finished job.

    Attributes:
        output: The folder that it wrote.
        rows: Number of rows, one for each item of the input.
        skipped: Number of rows without a vector.
        first_error: Error of the first row without a vector.
        truncated: Number of texts that were cut to the token limit.
        parts: Number of output files.
        redone: Number of shards that were repeated after the loss of a worker.
        providers: Execution providers that were active on the workers.
        workers: Number of workers.
        threads: Threads of each worker.
    """

    output: str
    rows: int
    skipped: int
    first_error: ItemError | None
    truncated: int
    parts: int
    redone: int
    providers: tuple[str, ...]
    workers: int
    threads: int


def embed_on_ray(job: RayJob) -> RayJobResult:
    """Run a job. Its output appears when it is complete, or not at all.

    An object store moves the parts of a complete output one by one, and ``_SUCCESS`` appears last.

    Raises:
        UsageError: An option or the input is wrong.
        ArtifactError: The artifact is missing or damaged, here or on a worker.
        ItemError: No item can be embedded; or with ``on_error="raise"``, one item cannot: the first that a worker
            reports.
        ProviderError: The provider is not usable on a worker.
        OutputError: The output exists, or cannot be written.
        ClusterError: The cluster is not usable, or the same rows have killed their worker repeatedly.
        MissingDependencyError: Ray is not installed.
    """
    import_ray()
    if job.rows_per_part is not None and not is_whole(job.rows_per_part, 1):
        raise UsageError(f"rows_per_part is {job.rows_per_part!r}, it must be a whole number from 1 up")
    if job.cluster.threads and (job.concurrent_batches or 1) > job.cluster.threads:
        found = f"concurrent_batches is {job.concurrent_batches}, it must be from 1 to {job.cluster.threads}"
        raise UsageError(f"{found}, the threads of a worker")
    tower, width, space = _check_tower(job)
    inputs = find_inputs(job.inputs, job.column, tower)
    if not inputs.rows:
        raise UsageError("the input holds no items; check the files")
    part_schema(inputs.carried, width, errors=job.options.on_error == "skip")  # checks the names of columns
    folder = OutputFolder(job.output, force=job.force)
    try:
        with open_cluster(job.cluster) as resources:
            even = -(-inputs.rows // (resources.workers * _SHARDS_PER_WORKER))
            shards = cut(inputs, job.rows_per_part or min(max(_MIN_ROWS, even), _MAX_ROWS[tower]))
            options = WorkerOptions(
                artifact=str(Path(job.artifact).absolute()),
                folder=absolute(folder.place),
                format=inputs.format,
                options=replace(job.options, tower=tower),
                session=SessionOptions(
                    provider=job.cluster.provider,
                    variant=worker_variant(job),
                    concurrent_batches=job.concurrent_batches,
                ).with_threads(resources.threads),
                space=space,
                inputs=tuple(map(public_name, job.inputs)),
            )
            results = _run(job, options, shards, resources)
        summary = RayJobResult(
            output=public_name(job.output),
            rows=sum(result.rows for result in results),
            skipped=sum(result.skipped for result in results),
            first_error=next((result.first_error for result in results if result.first_error), None),
            truncated=sum(result.truncated for result in results),
            parts=len(results),
            redone=sum(result.attempt > 1 for result in results),
            providers=tuple(sorted({result.provider for result in results})),
            workers=resources.workers,
            threads=resources.threads,
        )
        if summary.first_error and summary.skipped == summary.rows:
            raise summary.first_error
    except BaseException:
        folder.discard()
        raise
    folder.publish(len(shards))
    return summary


def worker_variant(job: RayJob) -> str:
    """Return the variant that all workers run."""
    return "fp32" if job.variant == "auto" else job.variant


def _check_tower(job: RayJob) -> tuple[TowerName, int, str]:
    """Return the tower, the length of its vectors, and the name of their space. Check that it has the prompt."""
    manifest = read_manifest(Path(job.artifact))
    dim = job.options.truncate_dim
    tower = manifest.choose_tower(job.options.tower)
    resolve_prompt(job.options, {tower: manifest.towers[tower]})
    if dim is not None and dim > manifest.output_dim:
        raise UsageError(f"truncate_dim is {dim}, it must be from 1 to {manifest.output_dim}")
    return tower, dim or manifest.output_dim, space_of(manifest, {tower: worker_variant(job)})


def _run(job: RayJob, options: WorkerOptions, shards: Sequence[Shard], resources: WorkerResources) -> list[ShardResult]:
    """Return the result of each shard, or raise the first error that one reports."""
    results: dict[int, ShardResult] = {}
    rows = sum(shard.rows for shard in shards)
    with (
        progress_bar(total=rows, unit="item", label="embed", hidden=not job.progress) as bar,
        contextlib.closing(_embed_shards(options, shards, resources)) as stream,
    ):
        for result in stream:
            if result.error:
                raise result.error
            if result.number not in results:
                bar.update(result.rows)
            results[result.number] = result
    if len(results) != len(shards):
        raise ClusterError(f"Ray returned {len(results)} of {len(shards)} shards; run the job again")
    return [results[shard.number] for shard in shards]


def _embed_shards(
    options: WorkerOptions, shards: Sequence[Shard], resources: WorkerResources
) -> Generator[ShardResult, None, None]:
    """Let Ray Data hand the shards to its actors one at a time, and yield results as they arrive."""
    ray = import_ray()
    with _without_progress(ray.data.DataContext.get_current()):
        attempts = ray.remote(AttemptCounter).options(num_cpus=0).remote()
        dataset = ray.data.from_items(
            [{"shard": ray.cloudpickle.dumps(shard)} for shard in shards],
            override_num_blocks=len(shards),  # Ray repeats the whole block of a lost worker
        ).map(
            ShardEmbedder,
            fn_constructor_args=(options, attempts),
            compute=ray.data.ActorPoolStrategy(size=min(resources.workers, len(shards))),
            num_cpus=resources.threads,
            num_gpus=resources.gpus,
        )
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from map(ray.cloudpickle.loads, table["result"].to_pylist())
        except EmbeddingBackbonesError:
            raise
        except Exception as exc:
            raise ClusterError(f"Ray ended the job ({_last_line(exc)}); see its logs in /tmp/ray") from exc


@contextlib.contextmanager
def _without_progress(context: Any) -> Iterator[None]:
    """Turn off Ray Data's own output. Ray 2.40 reads these settings only from its current context."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    before = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before


def _last_line(exc: Exception) -> str:
    """Return the cause, which Ray writes below the tracebacks of its processes."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[-1] if lines else 'no reason given'}"
