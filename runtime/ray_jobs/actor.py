"""What runs on the workers of a Ray cluster: a session that takes pieces, and leaves a part for each."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import runtime
from runtime import errors
from runtime.artifact.manifest import TowerName
from runtime.errors import ClusterError, EmbeddingBackbonesError, ItemError, one_line
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import PartialEmbeddings
from runtime.ray_jobs.input_files import Format
from runtime.ray_jobs.output import part_schema, vector_column, write_part
from runtime.ray_jobs.shards import Piece, Rows, read_piece

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What every worker is told; small, since it is sent to each.

    Attributes:
        artifact: The artifact's folder, at the same path on every machine.
        folder: Where parts are written.
        format: How the input is read.
        column: Where an item is in a row of the input.
        tower: The tower that embeds.
        provider: Execution provider.
        variant: Which of the artifact's graphs.
        threads: Threads of the session.
        batch_size: Items that go through the graph together.
        skip: Whether an item that cannot be embedded stays as a row without a vector.
        normalize: Whether vectors get the length 1.
        truncate_dim: Dimensions that are kept; ``None`` for all.
    """

    artifact: str
    folder: str
    format: Format
    column: str | None
    tower: TowerName
    provider: str
    variant: str
    threads: int
    batch_size: int | None
    skip: bool
    normalize: bool
    truncate_dim: int | None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a worker returns for a piece: of a failure, the type and arguments of one of our errors.

    Attributes:
        number: The piece.
        rows: Its rows, which are written.
        skipped: How many of them have no vector.
        truncated: How many are texts embedded without their end.
        attempt: Which attempt this was, from 1.
        provider: The execution provider that was active.
        first_error: Arguments of the ItemError of the first row without a vector, as JSON.
        failure: Name of the error's type; empty for a piece that is written.
        arguments: The error's arguments as JSON.
    """

    number: int
    rows: int = 0
    skipped: int = 0
    truncated: int = 0
    attempt: int = 1
    provider: str = ""
    first_error: str = "[]"
    failure: str = ""
    arguments: str = "[]"

    def error(self) -> EmbeddingBackbonesError | None:
        """Returns the error that this receipt reports, if it does."""
        if not self.failure:
            return None
        error: EmbeddingBackbonesError = getattr(errors, self.failure)(*json.loads(self.arguments))
        return error

    def first_item_error(self) -> ItemError:
        """Returns the error of the first row without a vector; there must be one."""
        return ItemError(*json.loads(self.first_error))


class Attempts:
    """Counts how often each piece was begun; an actor of its own, which outlives the workers."""

    def __init__(self) -> None:
        """Begins at none."""
        self._counts: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Notes that a piece is begun, and returns for which time."""
        self._counts[number] = self._counts.get(number, 0) + 1
        return self._counts[number]


class PieceEmbedder:
    """One session, which Ray Data gives pieces.

    Errors travel in receipts, not as exceptions: Ray would wrap those in tracebacks, and those of a constructor it
    takes for a dead worker.

    Attributes:
        most_attempts: How often the same rows may end their worker; Ray itself would begin them for ever.
    """

    most_attempts = 4

    def __init__(self, options: WorkerOptions, attempts: Any) -> None:
        """Loads the artifact.

        Args:
            options: What to do.
            attempts: Handle of the :class:`Attempts`.
        """
        self._options = options
        self._attempts = attempts
        self._fault: EmbeddingBackbonesError | None = None
        try:
            self._model: Embedder = runtime.load(
                options.artifact,
                provider=options.provider,
                threads=options.threads,
                tower=options.tower,
                variant=options.variant,
            )
        except EmbeddingBackbonesError as exc:
            self._fault = exc

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Takes a table of ``piece``, each the JSON of one, and returns a table of receipts."""
        import pyarrow as pa

        pieces = [Piece.from_json(document) for document in batch.column("piece").to_pylist()]
        return pa.Table.from_pylist([asdict(self._take(piece)) for piece in pieces])

    def _take(self, piece: Piece) -> Receipt:
        import ray

        try:
            if self._fault:
                raise self._fault
            attempt = ray.get(self._attempts.begin.remote(piece.number))
            if attempt > self.most_attempts:
                raise ClusterError(_deadly(piece, self.most_attempts))
            return self._embed(piece, attempt)
        except ItemError as exc:
            return _failed(piece, exc, [exc.index, exc.item, exc.reason])
        except EmbeddingBackbonesError as exc:
            return _failed(piece, exc, [f"{exc} (on the worker {socket.gethostname()})"])

    def _embed(self, piece: Piece, attempt: int) -> Receipt:
        rows = self._read(piece)
        good = [index for index in range(piece.rows) if index not in rows.faults]
        vectors, kept, truncated, failures = self._run([rows.items[index] for index in good])
        reasons = rows.faults | {good[failure.index]: failure.reason for failure in failures}
        first_error = [(piece.first + row, piece.locate(row), reasons[row]) for row in sorted(reasons)[:1]]
        if first_error and not self._options.skip:
            raise ItemError(*first_error[0])
        column = vector_column(vectors, np.array(good, dtype=np.int64)[kept], piece.rows)
        write_part(self._options.folder, piece.number, self._table(rows, reasons, column))
        return Receipt(
            number=piece.number,
            rows=piece.rows,
            skipped=len(reasons),
            truncated=truncated,
            attempt=attempt,
            provider=self._model.provider,
            first_error=json.dumps(first_error[0] if first_error else []),
        )

    def _read(self, piece: Piece) -> Rows:
        import pyarrow as pa

        try:
            return read_piece(piece, self._options.format, self._options.column, self._options.tower)
        except (OSError, pa.ArrowException) as exc:
            raise ClusterError(
                f"cannot read {piece.locate(0)} ({one_line(exc)}); the input must be at the same place on every machine"
            ) from exc

    def _run(self, items: list[Any]) -> tuple[Any, np.ndarray[Any, Any], int, list[ItemError]]:
        """Returns vectors, the indices of their items, the number of texts that were cut, and the errors."""
        options = self._options
        parts: list[PartialEmbeddings] = list(
            self._model.embed_stream(
                items,
                tower=options.tower,
                batch_size=options.batch_size,
                on_error="skip",
                normalize=options.normalize,
                truncate_dim=options.truncate_dim,
            )
        )
        width = options.truncate_dim or self._model.output_dim
        vectors = np.concatenate([np.empty((0, width), np.float32), *(part.vectors for part in parts)])
        kept = np.concatenate([np.empty(0, np.int64), *(part.kept for part in parts)])
        cut = sum(len(part.truncated) for part in parts)
        return vectors, kept, cut, [failure for part in parts for failure in part.failures]

    def _table(self, rows: Rows, reasons: dict[int, str], vectors: pa.Array) -> pa.Table:
        import pyarrow as pa

        schema = part_schema(rows.carried.schema, vectors.type.list_size, errors=self._options.skip)
        columns = [rows.files, rows.numbers, *rows.carried.columns]
        if self._options.skip:
            columns.append([reasons.get(index) for index in range(len(rows.items))])
        return pa.table([*columns, vectors], schema=schema)


def _failed(piece: Piece, exc: EmbeddingBackbonesError, arguments: list[Any]) -> Receipt:
    return Receipt(number=piece.number, failure=type(exc).__name__, arguments=json.dumps(arguments))


def _deadly(piece: Piece, attempts: int) -> str:
    return (
        f"the {piece.rows} rows from {piece.locate(0)} to {piece.locate(piece.rows - 1)} ended their worker "
        f"{attempts} times; give the workers more memory, take smaller parts, or leave those rows out"
    )
