"""The worker of a Ray job: an actor with one session that embeds shards and writes a file for each."""

from __future__ import annotations

import logging
import socket
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runtime.errors import ClusterError, EmbeddingBackbonesError, ItemError, ProviderError, SpaceError
from runtime.inference.embedder import Embedder
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import PartialEmbeddings
from runtime.jobs.origin import describe_origin
from runtime.loading.load import load
from runtime.ray_jobs.input_files import InputFormat
from runtime.ray_jobs.output import part_schema, vector_column, write_part
from runtime.ray_jobs.shards import Shard, ShardRows, read_shard
from runtime.session.provider_options import OpenVinoOptions
from runtime.session.providers import expected_provider
from runtime.session.session import SessionOptions
from runtime.version import __version__

_LOG = logging.getLogger("runtime")


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Options of all workers of a job. Each worker gets a copy, so they are small.

    Attributes:
        artifact: The artifact's folder, at the same path on every machine.
        folder: The folder in which parts are written.
        format: How the input is read.
        options: How items are embedded.
        session: How a worker loads the graph.
        space: Name of the vector space that the workers must embed in.
        inputs: The inputs as the user named them, without credentials.
        version: Version of this package that the workers must run.
    """

    artifact: str
    folder: str
    format: InputFormat
    options: EmbedOptions
    session: SessionOptions
    space: str
    inputs: tuple[str, ...]
    version: str = __version__


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The result of a shard, small enough to pass through Ray.

    Attributes:
        number: Number of the shard.
        rows: Number of written rows.
        skipped: Number of rows without a vector.
        truncated: Number of texts that were cut to the token limit.
        attempt: Number of this attempt, from 1.
        provider: Active execution provider.
        first_error: Error of the first row without a vector.
        error: The error that ended the shard.
    """

    number: int
    rows: int = 0
    skipped: int = 0
    truncated: int = 0
    attempt: int = 1
    provider: str = ""
    first_error: ItemError | None = None
    error: EmbeddingBackbonesError | None = None


class AttemptCounter:
    """Counts the attempts of each shard. It is an actor of its own, so it survives the death of a worker."""

    def __init__(self) -> None:
        """Start with no attempts."""
        self._counts: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Count an attempt of shard ``number``, and return its attempts so far."""
        self._counts[number] = self._counts.get(number, 0) + 1
        return self._counts[number]


class ShardEmbedder:
    """An actor that Ray Data hands shards to.

    Errors are returned in results and not raised. Ray would wrap them in tracebacks, and take an error of the
    constructor for a dead worker.

    Attributes:
        max_attempts: Attempts of a shard that kills its worker each time. Ray Data itself would retry without end, and
            the error of its own limit, ``max_task_retries``, does not name the rows.
    """

    max_attempts = 4

    def __init__(self, options: WorkerOptions, attempts: Any) -> None:
        """Load the artifact. ``attempts`` is the handle of the :class:`AttemptCounter`."""
        self._options = options
        self._attempts = attempts
        self._fault: EmbeddingBackbonesError | None = None
        try:
            self._check_version()
            self._model = _load(options)
            self._check_space()
        except EmbeddingBackbonesError as exc:
            self._fault = exc

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Embed the pickled ``shard`` of a row, and return a row with its pickled ``result``."""
        from ray import cloudpickle

        return {"result": cloudpickle.dumps(self._try(cloudpickle.loads(row["shard"])))}

    def _check_version(self) -> None:
        """Check the version, because another one may decode images or sample meshes differently."""
        if __version__ != self._options.version:
            raise ClusterError(
                f"embedding-backbones is of version {__version__} here, and of {self._options.version} where the job "
                "began; install the same version on every machine"
            )

    def _check_space(self) -> None:
        if self._model.space != self._options.space:
            raise SpaceError(
                f"the artifact {self._options.artifact} embeds in the space {self._model.space} here, and in "
                f"{self._options.space} where the job began; copy the same artifact to every machine"
            )

    def read(self, shard: Shard) -> ShardRows:
        """Read the rows of a shard.

        Raises:
            ClusterError: A file cannot be read on this machine.
            UsageError: A file has changed since the job began.
        """
        return read_shard(shard, self._options.format)

    def embed(self, shard: Shard, attempt: int) -> ShardResult:
        """Embed a shard and write its part.

        Raises:
            EmbeddingBackbonesError: The shard cannot be read, embedded or written.
        """
        rows = self.read(shard)
        good = [index for index in range(shard.rows) if index not in rows.faults]
        keywords = asdict(self._options.options) | {"on_error": "skip"}
        found: PartialEmbeddings = self._model.embed([rows.items[index] for index in good], **keywords)
        reasons = rows.faults | {good[failure.index]: failure.reason for failure in found.failures}
        first = min(reasons, default=None)
        first_error = None if first is None else ItemError(shard.first + first, shard.locate(first), reasons[first])
        skips = self._options.options.on_error == "skip"
        if first_error and not skips:
            raise first_error
        columns = [rows.files, rows.numbers, *rows.carried.columns]
        if skips:
            columns.append([reasons.get(index) for index in range(shard.rows)])
        columns.append(vector_column(found.vectors, np.array(good, dtype=np.int64)[found.kept], shard.rows))
        origin = describe_origin(
            self._model,
            self._options.options,
            inputs=self._options.inputs,
            column=self._options.format.column,
        )
        schema = part_schema(rows.carried.schema, found.vectors.shape[1], errors=skips, origin=origin)
        write_part(self._options.folder, shard.number, pa.table(columns, schema=schema))
        return ShardResult(
            number=shard.number,
            rows=shard.rows,
            skipped=len(reasons),
            truncated=len(found.truncated),
            attempt=attempt,
            provider=self._model.provider,
            first_error=first_error,
        )

    def _try(self, shard: Shard) -> ShardResult:
        import ray

        try:
            if self._fault:
                raise self._fault
            attempt = ray.get(self._attempts.begin.remote(shard.number))
            if attempt > self.max_attempts:
                rows = f"the {shard.rows} rows from {shard.locate(0)} to {shard.locate(shard.rows - 1)}"
                way_out = "give the workers more memory, set a smaller --rows-per-part, or leave these rows out"
                raise ClusterError(f"{rows} killed their worker {self.max_attempts} times; {way_out}")
            return self.embed(shard, attempt)
        except ItemError as exc:
            return ShardResult(number=shard.number, error=exc)
        except EmbeddingBackbonesError as exc:
            located = type(exc)(f"{exc} (on the worker {socket.gethostname()})")
            return ShardResult(number=shard.number, error=located)


def _load(options: WorkerOptions) -> Embedder:
    """Load the artifact. OpenVINO computes in float32 on every machine; ``auto`` goes on to the CPU without it."""
    session = options.session

    def load_with(provider: str, provider_options: OpenVinoOptions | None) -> Embedder:
        return load(
            options.artifact,
            provider=provider,
            provider_options=provider_options,
            threads=session.threads,
            concurrent_batches=session.concurrent_batches,
            tower=options.format.tower,
            variant=session.variant,
        )

    if expected_provider(session.provider).name != "openvino":
        return load_with(session.provider, None)
    try:
        return load_with("openvino", OpenVinoOptions(dtype="fp32"))
    except ProviderError as exc:
        if session.provider != "auto":
            raise
        _LOG.warning("provider auto skips openvino: %s", exc)
    return load_with("cpu", None)
