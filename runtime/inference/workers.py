"""Items to vectors in several processes, each with a session of its own: side by side on a CPU, or one for each GPU."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from runtime.artifact.manifest import Tower, TowerName
from runtime.errors import EmbeddingBackbonesError, InferenceError, ItemError, UsageError
from runtime.inference.batching import windows
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import Active, OnProgress, PartialEmbeddings, Pipeline
from runtime.inference.tower import PORTIONS
from runtime.session.provider_options import OPTIONS, replace_device
from runtime.session.providers import PROVIDERS
from runtime.session.session import SessionOptions

_WINDOWS_AHEAD = 2  # for each worker: how far a fast one may be ahead of the slowest
_Line: TypeAlias = "Connection[Any, Any]"


def divide(options: SessionOptions, workers: int | None, device_ids: Sequence[int] | None) -> list[SessionOptions]:
    """Returns the options of each worker: its share of the threads, and its GPU.

    Args:
        options: Those of all together, settled.
        workers: Their number; with ``device_ids``, as many as there are.
        device_ids: GPUs.

    Raises:
        UsageError: The numbers contradict each other, or the provider has no GPUs.
    """
    if device_ids is not None and (not device_ids or len(set(device_ids)) < len(device_ids)):
        raise UsageError(f"device_ids are {list(device_ids)}, they must be one or more different GPUs")
    if device_ids is not None and workers not in (None, len(device_ids)):
        raise UsageError(f"workers is {workers} with {len(device_ids)} device_ids; leave one of them out")
    count = len(device_ids) if device_ids is not None else workers
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"workers is {count!r}, it must be a number from 1 up")
    share = replace(options, threads=max(1, (options.threads or 1) // count))
    if device_ids is None:
        return [share] * count
    provider = "cuda" if options.provider == "auto" else options.provider
    chosen = options.provider_options or OPTIONS[provider]()
    return [
        replace(share, provider=provider, provider_options=replace_device(chosen, device_id))
        for device_id in device_ids
    ]


class Workers:
    """Processes that embed windows of a stream side by side.

    Attributes:
        active: What the first of them runs.
    """

    def __init__(
        self, folder: Path, towers: Mapping[TowerName, Tower], output_dim: int, options: Sequence[SessionOptions]
    ) -> None:
        """Starts a process for each of ``options`` and waits until all have loaded ``towers``.

        Raises:
            EmbeddingBackbonesError: What the first that failed says.
        """
        self._lock = threading.Lock()
        self._workers = [_Worker(folder, towers, output_dim, share) for share in options]
        try:
            actives = [worker.receive() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.active: Active = actives[0]
        device = PROVIDERS[self.active.provider].device
        self._portions = min((PORTIONS[name, device] for name in towers), key=lambda portions: portions.window)

    def stream(
        self, items: Iterable[Any], embed_options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yields what becomes of ``items``, in order; see :meth:`runtime.inference.pipeline.Pipeline.stream`.

        Callers take turns. Ctrl-C ends the workers.

        Raises:
            InferenceError: A worker has died.
        """
        with self._lock:
            flight = _Flight(self._workers, windows(items, self._window(items)), embed_options)
            try:
                for part in flight:
                    if on_progress:
                        on_progress(len(part.kept) + len(part.failures))
                    yield part
            except KeyboardInterrupt:
                self.close()
                raise
            finally:
                flight.land()

    def _window(self, items: Iterable[Any]) -> int:
        """Returns the number of items that a worker is given at once: its share, if that is less than the usual."""
        if not isinstance(items, Sized):
            return self._portions.window
        share = -(-len(items) // len(self._workers))
        return max(self._portions.chunk, min(self._portions.window, share))

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process, and the line to it."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA's state and the tokenizers' threads
        self.line, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, *arguments), daemon=True)
        self._process.start()
        remote.close()

    def send(self, task: tuple[list[Any], EmbedOptions]) -> None:
        try:
            self.line.send(task)
        except OSError as exc:
            raise self._death() from exc

    def receive(self) -> Any:
        """Returns what the process made of the last task; raises what it raised."""
        try:
            answer = self.line.recv()
        except (EOFError, OSError) as exc:
            raise self._death() from exc
        if isinstance(answer, EmbeddingBackbonesError):
            raise answer
        return answer

    def close(self) -> None:
        self.line.close()
        self._process.terminate()
        self._process.join()

    def _death(self) -> InferenceError:
        self._process.join(1)
        return InferenceError(
            f"a worker process has died (exit code {self._process.exitcode}), for want of memory, say; load again, "
            "with fewer workers or a smaller batch_size"
        )


class _Flight:
    """One call's windows on their way through the workers."""

    def __init__(self, workers: Sequence[_Worker], todo: Iterator[list[Any]], embed_options: EmbedOptions) -> None:
        self._todo = todo
        self._options = embed_options
        self._idle = list(workers)
        self._busy: dict[_Line, tuple[_Worker, int]] = {}
        self._done: dict[int, PartialEmbeddings | EmbeddingBackbonesError] = {}
        self._limit = _WINDOWS_AHEAD * len(workers)

    def __iter__(self) -> Iterator[PartialEmbeddings]:
        sent = yielded = start = 0
        while True:
            while self._idle and sent < yielded + self._limit and (window := next(self._todo, None)) is not None:
                self._send(window, sent)
                sent += 1
            while yielded in self._done:
                part = _shift(self._done.pop(yielded), start)
                yielded += 1
                start += len(part.kept) + len(part.failures)
                yield part
            if yielded == sent:
                return
            self._receive()

    def land(self) -> None:
        """Waits for what is under way, so that the next call finds the workers idle."""
        while self._busy:
            self._receive()

    def _send(self, window: list[Any], number: int) -> None:
        worker = self._idle.pop()
        worker.send((window, self._options))
        self._busy[worker.line] = worker, number

    def _receive(self) -> None:
        """Takes what is ready. An error waits for its turn, as a part does."""
        for line in wait(list(self._busy)):
            worker, number = self._busy.pop(cast("_Line", line))
            self._idle.append(worker)
            try:
                self._done[number] = worker.receive()
            except EmbeddingBackbonesError as exc:
                self._done[number] = exc


def _serve(
    line: _Line, folder: Path, towers: Mapping[TowerName, Tower], output_dim: int, options: SessionOptions
) -> None:
    """What a worker does: loads, then embeds a window after the other until the line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    try:
        pipeline = Pipeline(folder, towers, output_dim, options)
        line.send(pipeline.active)
    except EmbeddingBackbonesError as exc:
        line.send(exc)
        return
    with suppress(EOFError, OSError):
        while True:
            items, embed_options = line.recv()
            line.send(_embed_window(pipeline, items, embed_options))


def _embed_window(
    pipeline: Pipeline, items: list[Any], embed_options: EmbedOptions
) -> PartialEmbeddings | EmbeddingBackbonesError:
    try:
        parts = list(pipeline.stream(items, embed_options))
    except EmbeddingBackbonesError as exc:
        return exc
    return PartialEmbeddings(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.kept for part in parts]),
        [failure for part in parts for failure in part.failures],
        np.concatenate([part.truncated for part in parts]),
    )


def _shift(part: PartialEmbeddings | EmbeddingBackbonesError, start: int) -> PartialEmbeddings:
    """Returns ``part``, which counts from 0, as the part of a stream that begins at ``start``.

    Raises:
        EmbeddingBackbonesError: There is an error in its place.
    """
    if isinstance(part, EmbeddingBackbonesError):
        raise _shift_error(part, start) if isinstance(part, ItemError) else part
    failures = [_shift_error(failure, start) for failure in part.failures]
    return PartialEmbeddings(part.vectors, part.kept + start, failures, part.truncated + start)


def _shift_error(error: ItemError, start: int) -> ItemError:
    return ItemError(start + error.index, error.item, error.reason)
