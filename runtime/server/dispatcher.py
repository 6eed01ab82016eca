"""Run what waits in batches side by side, in as many threads as batches may run at once.

While many threads have no work, the few batches share all of them. Measured with all-MiniLM-L6-v2 in float32 on two
cores of an AMD EPYC, a text alone then takes 0.55 to 0.65 of the time. If all threads have work, each batch has its
share of them, which takes the least CPU time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.array_types import Float32Array
from runtime.server.waiting_queue import BatchRunner, Job, WaitingItem, WaitingQueue

_LOG = logging.getLogger("runtime.server")
_SMOOTHING = 0.1  # share of the newest batch in the measured rate


class ShutDownError(Exception):
    """The dispatcher was closed before the job was done."""


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """The size of one batch, and the time that it took.

    Attributes:
        items: Number of items.
        tokens: Tokens, points or images, without padding.
        padded: The same with padding.
        seconds: Time of inference.
        waits: Time in the queue of each item, in seconds.
    """

    items: int
    tokens: int
    padded: int
    seconds: float
    waits: Sequence[float]


class _Batch(NamedTuple):
    """Items that run together, and whether they have only their share of the threads."""

    items: Sequence[WaitingItem]
    side_by_side: bool


class Dispatcher:
    """Threads that take batches from one queue.

    A batch is the item whose turn it is and those nearest to it in length, up to the limit of its graph. So no item
    starves, and little is padding.
    """

    def __init__(
        self, lanes: int, *, max_wait_s: float = 0.0, on_batch: Callable[[BatchReport], object] | None = None
    ) -> None:
        """Start ``lanes`` threads.

        Args:
            lanes: Number of batches that run side by side.
            max_wait_s: How long an item waits for others to fill a batch.
            on_batch: Receives a report of each batch, from its thread.
        """
        self.lanes, self._max_wait_s, self._on_batch = lanes, max_wait_s, on_batch or (lambda report: None)
        self.tokens_per_s = 0.0  # as measured, padded, of all threads together; 0 before the first batch
        self._queue, self._running, self._closed = WaitingQueue(), list[_Batch](), False
        self._changed = threading.Condition()
        self._failed = set[BatchRunner]()  # those whose latest batch failed
        self._threads = [threading.Thread(target=self._work, name=f"lane-{at}", daemon=True) for at in range(lanes)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def waiting_tokens(self) -> float:
        """The tokens that wait."""
        with self._changed:
            return self._queue.tokens

    def has_failed(self, runner: BatchRunner) -> bool:
        """Return whether the latest batch of ``runner`` failed, for whatever reason."""
        with self._changed:
            return runner in self._failed

    def submit(self, runner: BatchRunner, rows: Sequence[Any], *, urgent: bool = False) -> Job:
        """Queue rows, at least one, and return their job. If it is ``urgent``, it is the next to run."""
        job = Job(runner, rows, time.monotonic(), urgent=urgent)
        with self._changed:
            if self._closed:
                raise ShutDownError
            self._queue.add(job.items)
            self._changed.notify(len(job.items))
        return job

    def cancel(self, job: Job) -> None:
        """Drop the items of ``job`` that have not begun to run. Nobody waits for them."""
        with self._changed:
            self._queue.remove(job.items)

    def abort(self) -> None:
        """Fail all jobs, also those that run, without waiting for the threads. They end after their batches."""
        self.close(patience_s=0)
        with self._changed:
            for batch in self._running:
                for item in batch.items:
                    self._fail(item.job, ShutDownError())

    def close(self, patience_s: float) -> bool:
        """Fail all jobs that wait, and end the threads after their batches.

        Returns:
            Whether all threads ended within ``patience_s`` seconds.
        """
        deadline = time.monotonic() + patience_s
        with self._changed:
            self._closed = True
            while self._queue:
                self._fail(self._queue.first.job, ShutDownError())
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while batch := self._take():
            started = time.monotonic()
            self._run(batch.items, batch.side_by_side)
            self._report(batch, started, time.monotonic() - started)

    def _take(self) -> _Batch | None:
        """Wait for the next batch; ``None`` means the end."""
        with self._changed:
            while not self._closed:
                delay = self._delay() if self._queue else None
                if delay is not None and delay <= 0:
                    items = self._queue.take(self.lanes - len(self._running))
                    busy = len(self._running) + 1 + len(self._queue)
                    self._running.append(_Batch(items, side_by_side=2 * busy > self.lanes))
                    return self._running[-1]
                self._changed.wait(delay)
            return None

    def _delay(self) -> float:
        """Return the seconds until the next batch may begin, which may wait for others to fill it."""
        if not self._max_wait_s or self._queue.first.job.urgent or self._queue.is_full_batch():
            return 0.0
        return self._queue.longest_since + self._max_wait_s - time.monotonic()

    def _run(self, items: Sequence[WaitingItem], side_by_side: bool, *, is_retry: bool = False) -> None:
        """Run a batch. If it fails, each item runs by itself, so that one of them does not fail the others."""
        try:
            vectors = items[0].runner.embed([item.row for item in items], side_by_side=side_by_side)
        except Exception as exc:  # noqa: BLE001  whatever a graph raises, the other batches go on
            with self._changed:
                self._failed.add(items[0].runner)
            if not is_retry and not self._closed:  # once for a batch, and not for one that was cancelled
                fields = {"items": len(items), "reason": f"{type(exc).__name__}: {exc}"}
                _LOG.error("batch failed", extra={"fields": fields})
            if len(items) == 1:
                self._fail(items[0].job, exc)
                return
            for item in items:
                if not item.job.future.done():
                    self._run([item], side_by_side, is_retry=True)
            return
        self._deliver(items, vectors)

    def _deliver(self, items: Sequence[WaitingItem], vectors: Float32Array) -> None:
        with self._changed:
            self._failed.discard(items[0].runner)
            for item, vector in zip(items, vectors, strict=True):
                item.job.vectors[item.index] = vector
                item.job.left -= 1
                if not item.job.left and not item.job.future.done():
                    item.job.future.set_result(item.job.vectors)

    def _fail(self, job: Job, exc: Exception) -> None:
        with self._changed:
            self._queue.remove(job.items)
            if not job.future.done():
                job.future.set_exception(exc)

    def _report(self, batch: _Batch, started: float, seconds: float) -> None:
        items = batch.items
        padded = len(items) * max(item.cost for item in items)
        with self._changed:
            self._running.remove(batch)
            lanes = self.lanes if batch.side_by_side else 1
            rate = lanes * padded * items[0].runner.tokens_per_cost / max(seconds, 1e-6)
            self.tokens_per_s += (rate - self.tokens_per_s) * (_SMOOTHING if self.tokens_per_s else 1)
        self._on_batch(
            BatchReport(
                items=len(items),
                tokens=sum(item.cost for item in items),
                padded=padded,
                seconds=seconds,
                waits=[started - item.since for item in items],
            )
        )
