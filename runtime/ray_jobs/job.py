"""A job on Ray Data: every actor holds one session, takes pieces of the input, and writes a part for each.

Only pieces, which are names and row numbers, and receipts pass through Ray. So a piece that is redone, since its
worker was killed, is the same rows again and replaces the same part: nothing is lost and nothing doubled.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import read_manifest
from runtime.errors import ClusterError, EmbeddingBackbonesError, ItemError, UsageError
from runtime.ray_jobs.actor import Attempts, PieceEmbedder, Receipt, WorkerOptions
from runtime.ray_jobs.cluster import Request, Share, cluster, import_ray
from runtime.ray_jobs.input_files import Inputs, find_inputs
from runtime.ray_jobs.output import PartFolder, part_schema
from runtime.ray_jobs.shards import Piece, cut
from runtime.ray_jobs.storage import absolute, public_name

_PIECES_OF_A_WORKER = 8  # so that all end at about the same time
_SMALLEST, _LARGEST = 64, 16_384  # rows of a part


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """What to embed, where to, and on what.

    Attributes:
        artifact: The artifact's folder, at the same path on every machine of the cluster.
        inputs: Files or folders, paths or URIs, of one format: .parquet, .txt (an item a line), .jsonl, or folders of
            images or meshes.
        output: The folder of parquet to write, a path or a URI that all machines share.
        column: The column of parquet, or the key of .jsonl, that holds the items; by default named as the tower.
        tower: The tower that embeds; needed only where the artifact has two.
        provider: ``cpu``, ``cuda`` or ``openvino``; with ``cuda`` each worker has a GPU of its own; ``auto`` gives it
            one if the cluster has any.
        variant: Which of the artifact's graphs; ``auto`` is ``fp32`` here, as machines of different kinds have to give
            vectors that can be compared.
        workers: Number of sessions; by default as many as the cluster has room for.
        threads: Threads of each; by default up to 4, or what ``workers`` leave to each.
        batch_size: Items that go through the graph together; ``None`` leaves it to the embedder.
        on_error: ``raise`` ends the job at an item that cannot be embedded; ``skip`` keeps its row without a vector
            and with the reason in the column ``error``.
        normalize: Whether vectors get the length 1.
        truncate_dim: Dimensions that are kept; ``None`` for all.
        rows_per_part: Rows of a part, which is what a killed worker costs; by default a share of the input, from 64
            to 16,384.
        address: The cluster's address; by default that in ``RAY_ADDRESS``, or a cluster for this job on this machine.
        force: Whether to replace an output of an earlier job.
        progress: Whether to draw a progress bar on standard error.
    """

    artifact: str | Path
    inputs: Sequence[str]
    output: str
    column: str | None = None
    tower: TowerName | None = None
    provider: str = "auto"
    variant: str = "auto"
    workers: int | None = None
    threads: int | None = None
    batch_size: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    normalize: bool = False
    truncate_dim: int | None = None
    rows_per_part: int | None = None
    address: str | None = None
    force: bool = False
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class RaySummary:
    """What a job did.

    Attributes:
        output: The folder that it wrote.
        rows: The rows in it, one for each item of the input.
        skipped: How many of them have no vector.
        first_error: That of the first of those.
        truncated: How many are texts embedded without their end.
        parts: The number of files.
        redone: How many pieces were begun again, after a worker was lost.
        providers: The execution providers that were active on the workers.
        workers: The number of sessions.
        threads: The threads of each.
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


def embed_on_ray(job: RayJob) -> RaySummary:
    """Runs a job; its output appears when all of it is there.

    Raises:
        UsageError: An argument or the input cannot be right.
        ArtifactError: The artifact is missing or damaged, here or on a worker.
        ItemError: With ``on_error="raise"``, an item cannot be embedded: the first that a worker reports. With
            ``skip``, none can.
        ProviderError: The provider is not usable on a worker.
        OutputError: The output exists, or cannot be written.
        ClusterError: The cluster cannot be used, or the same rows have ended their worker again and again.
        MissingDependencyError: Ray or pyarrow is not installed.
    """
    import_ray()
    tower, width = _check(job)
    inputs = find_inputs(job.inputs, job.column, tower)
    if not inputs.rows:
        raise UsageError("the input holds no items; check what is in it")
    part_schema(inputs.carried, width, errors=job.on_error == "skip")
    folder = PartFolder(job.output, force=job.force)
    try:
        with cluster(_request(job)) as share:
            pieces = cut(inputs, job.rows_per_part or _part_size(inputs.rows, share.workers))
            receipts = _run(job, _options(job, inputs, folder, tower, share), pieces, share)
        summary = _summarize(job, receipts, share)
        if summary.first_error and summary.skipped == summary.rows:
            raise summary.first_error
        folder.publish(len(pieces))
    except BaseException:
        folder.discard()
        raise
    return summary


def _check(job: RayJob) -> tuple[TowerName, int]:
    """Returns the tower, and the length of its vectors."""
    for name, value in (("batch_size", job.batch_size), ("rows_per_part", job.rows_per_part)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, it must be a number from 1 up")
    if job.on_error not in ("raise", "skip"):
        raise UsageError(f"on_error is {job.on_error!r}, it must be 'raise' or 'skip'")
    manifest = read_manifest(Path(job.artifact))
    if job.tower is None and len(manifest.towers) > 1:
        raise UsageError(
            f"the artifact embeds {' and '.join(manifest.towers)}; say by tower which of them the job does"
        )
    tower = job.tower or next(iter(manifest.towers))
    if tower not in manifest.towers:
        raise UsageError(f"there is no {tower} tower; the artifact has {' and '.join(manifest.towers)}")
    if job.truncate_dim is not None and not 1 <= job.truncate_dim <= manifest.output_dim:
        raise UsageError(f"truncate_dim is {job.truncate_dim}, it must be from 1 to {manifest.output_dim}")
    return tower, job.truncate_dim or manifest.output_dim


def _part_size(rows: int, workers: int) -> int:
    return min(max(_SMALLEST, -(-rows // (workers * _PIECES_OF_A_WORKER))), _LARGEST)


def _request(job: RayJob) -> Request:
    return Request(address=job.address, workers=job.workers, threads=job.threads, provider=job.provider)


def _options(job: RayJob, inputs: Inputs, folder: PartFolder, tower: TowerName, share: Share) -> WorkerOptions:
    return WorkerOptions(
        artifact=str(Path(job.artifact).absolute()),
        folder=absolute(folder.place),
        format=inputs.format,
        column=inputs.column,
        tower=tower,
        provider=job.provider,
        variant="fp32" if job.variant == "auto" else job.variant,
        threads=share.threads,
        batch_size=job.batch_size,
        skip=job.on_error == "skip",
        normalize=job.normalize,
        truncate_dim=job.truncate_dim,
    )


def _run(job: RayJob, options: WorkerOptions, pieces: Sequence[Piece], share: Share) -> list[Receipt]:
    """Returns the receipt of every piece.

    Raises:
        EmbeddingBackbonesError: That of the first receipt that reports one.
    """
    receipts: dict[int, Receipt] = {}
    rows = sum(piece.rows for piece in pieces)
    with _progress(rows, shown=job.progress) as advance, contextlib.closing(_receipts(options, pieces, share)) as done:
        for receipt in done:
            error = receipt.error()
            if error:
                raise error
            if receipt.number not in receipts:
                advance(receipt.rows)
            receipts[receipt.number] = receipt
    if len(receipts) != len(pieces):
        raise ClusterError(f"Ray returned {len(receipts)} of {len(pieces)} pieces; run the job again")
    return [receipts[piece.number] for piece in pieces]


def _receipts(options: WorkerOptions, pieces: Sequence[Piece], share: Share) -> Generator[Receipt, None, None]:
    """Lets Ray Data hand the pieces to its actors, one at a time, and yields receipts as they come."""
    ray = import_ray()
    workers = min(share.workers, len(pieces))
    with ray.data.DataContext.current(_quiet_context(ray)):
        attempts = ray.remote(Attempts).options(num_cpus=0).remote()
        done = ray.data.from_items(
            [{"piece": piece.to_json()} for piece in pieces],
            override_num_blocks=len(pieces),  # a block is what a killed worker's successor does again
        ).map_batches(
            PieceEmbedder,
            fn_constructor_args=(options, attempts),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=share.threads,
            num_gpus=share.gpus,
        )
        try:
            for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from (Receipt(**fields) for fields in table.to_pylist())
        except EmbeddingBackbonesError:
            raise
        except Exception as exc:
            raise ClusterError(f"Ray gave the job up ({_last_line(exc)}); its logs are in /tmp/ray") from exc


def _quiet_context(ray: Any) -> Any:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _last_line(exc: Exception) -> str:
    """Returns the cause that Ray puts below the tracebacks of its processes."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[-1] if lines else 'no reason given'}"


@contextlib.contextmanager
def _progress(rows: int, *, shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm  # only who watches pays for the import

    with tqdm(total=rows, unit="item", desc="embed") as bar:
        yield bar.update


def _summarize(job: RayJob, receipts: Sequence[Receipt], share: Share) -> RaySummary:
    return RaySummary(
        output=public_name(job.output),
        rows=sum(receipt.rows for receipt in receipts),
        skipped=sum(receipt.skipped for receipt in receipts),
        first_error=next((receipt.first_item_error() for receipt in receipts if receipt.skipped), None),
        truncated=sum(receipt.truncated for receipt in receipts),
        parts=len(receipts),
        redone=sum(receipt.attempt > 1 for receipt in receipts),
        providers=tuple(sorted({receipt.provider for receipt in receipts})),
        workers=share.workers,
        threads=share.threads,
    )
