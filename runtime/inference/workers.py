"""Embed items in several processes: side by side on a CPU, or one process per GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from copy import copy
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeAlias

from runtime.artifact.manifest import Tower, TowerName
from runtime.errors import EmbeddingBackbonesError, InferenceError, ItemError, UsageError
from runtime.inference.batching import windows
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import BackendInfo, OnProgress, PartialEmbeddings, Pipeline, concatenate
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.session.provider_options import OPTIONS, replace_device
from runtime.session.providers import PROVIDERS
from runtime.session.session import SessionOptions

_WINDOWS_AHEAD = 2  # per worker; it bounds how far a fast worker gets ahead of a slow one
_Pipe: TypeAlias = Any  # a Connection, or on Windows a PipeConnection


def split_options(
    options: SessionOptions, workers: int | None, device_ids: Sequence[int] | None
) -> list[SessionOptions]:
    """Return the options of each worker, with its share of the threads and its GPU, from resolved ``options``.

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
    threads = max(1, (options.threads or 1) // count)
    batches = options.concurrent_batches and min(options.concurrent_batches, threads)
    share = replace(options, threads=threads, concurrent_batches=batches)
    if device_ids is None:
        return [share] * count
    provider = "cuda" if options.provider == "auto" else options.provider
    chosen = options.provider_options or OPTIONS[provider]()
    return [replace(share, provider=provider, provider_options=replace_device(chosen, each)) for each in device_ids]


class Workers:
    """Worker processes that embed the windows of a stream side by side.

    Attributes:
        info: The active provider, threads and graphs of the first worker.
        processes: The processes.
    """

    def __init__(
        self, folder: Path, towers: Mapping[TowerName, Tower], output_dim: int, options: Sequence[SessionOptions]
    ) -> None:
        """Start a process for each of ``options``, and wait until all processes have loaded ``towers``.

        Raises:
            UsageError: This process is daemonic and may not have children.
            EmbeddingBackbonesError: A process cannot load a tower.
        """
        if multiprocessing.current_process().daemon:
            raise UsageError(
                "workers cannot start in a daemonic process, such as one of multiprocessing.Pool; load without workers "
                "there, or take concurrent.futures.ProcessPoolExecutor"
            )
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._workers = [_WorkerProcess(folder, towers, output_dim, share) for share in options]
        self.processes: list[BaseProcess] = [worker.process for worker in self._workers]
        try:
            self._infos: list[BackendInfo] = [worker.receive() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.info = self._infos[0]
        device = PROVIDERS[self.info.provider].device
        self._sizes = min((DEFAULT_BATCH_SIZES[name, device] for name in towers), key=lambda sizes: sizes.window)

    def stream(
        self, items: Iterable[Any], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yield the vectors and errors of ``items``, as :meth:`runtime.inference.pipeline.Pipeline.stream` does.

        Concurrent callers take turns. Ctrl-C ends the workers.

        Raises:
            InferenceError: A worker has died.
            UsageError: The workers belong to the process that forked this one, or were closed during the call.
        """
        if self._process_id != os.getpid():
            raise UsageError("the workers belong to the process that forked this one; load the model after the fork")
        with self._lock:
            scheduler = _WindowScheduler(self._workers, windows(items, self._window_size(items)), options)
            try:
                for part in scheduler:
                    if on_progress:
                        on_progress(len(part.kept) + len(part.failures))
                    yield part
            except KeyboardInterrupt:
                self.close()
                raise
            finally:
                scheduler.drain()

    def each(self) -> Iterator[Workers]:
        """Yield the workers one by one. Each is a backend of its own, with the process that it shares with this one."""
        for worker, info in zip(self._workers, self._infos, strict=True):
            alone = copy(self)
            alone.info, alone.processes = info, [worker.process]
            alone._workers, alone._infos = [worker], [info]  # noqa: SLF001  of this class
            yield alone

    def _window_size(self, items: Iterable[Any]) -> int:
        """Return the number of items per window: the default, or a worker's share of the items if that is smaller."""
        if not isinstance(items, Sized):
            return self._sizes.window
        share = -(-len(items) // len(self._workers))
        return max(self._sizes.chunk, min(self._sizes.window, share))

    def close(self) -> None:
        """End the processes, unless they belong to the process that forked this one."""
        if self._process_id != os.getpid():
            return
        for worker in self._workers:
            worker.close()


class _WorkerProcess:
    """A process, and the pipe to it."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA's state and the tokenizers' threads
        self.pipe, remote = context.Pipe()
        self.process = context.Process(target=_serve, args=(remote, *arguments), daemon=True)
        self.process.start()
        remote.close()

    def send(self, task: tuple[list[Any], EmbedOptions]) -> None:
        try:
            self.pipe.send(task)
        except OSError as exc:
            raise self._death() from exc

    def receive(self) -> Any:
        """Return the answer to the last task, or raise the error that the process sent."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError) as exc:
            raise self._death() from exc
        if isinstance(answer, EmbeddingBackbonesError):
            raise answer
        return answer

    def close(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()

    def _death(self) -> InferenceError:
        self.process.join(1)
        return InferenceError(
            f"a worker process has died (exit code {self.process.exitcode}), perhaps for lack of memory; load again "
            "with fewer workers or a smaller batch_size"
        )


class _WindowScheduler:
    """The windows of one call: sent to idle workers, and yielded in order."""

    def __init__(
        self, workers: Sequence[_WorkerProcess], remaining: Iterator[list[Any]], options: EmbedOptions
    ) -> None:
        self._remaining, self._options = remaining, options
        self._idle = list(workers)
        self._busy: dict[_Pipe, tuple[_WorkerProcess, int]] = {}
        self._done: dict[int, PartialEmbeddings | EmbeddingBackbonesError] = {}
        self._limit = _WINDOWS_AHEAD * len(workers)

    def __iter__(self) -> Iterator[PartialEmbeddings]:
        sent = yielded = start = 0
        while True:
            while self._idle and sent < yielded + self._limit and (window := next(self._remaining, None)) is not None:
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

    def drain(self) -> None:
        """Wait for the windows in progress, so that the next call finds the workers idle. Closed workers never are."""
        while self._busy and not self._is_closed():
            self._receive()

    def _is_closed(self) -> bool:
        return any(pipe.closed for pipe in self._busy)

    def _send(self, window: list[Any], number: int) -> None:
        worker = self._idle.pop()
        worker.send((window, self._options))
        self._busy[worker.pipe] = worker, number

    def _receive(self) -> None:
        """Receive the windows that are ready. An error is kept until its turn, as a result is."""
        if self._is_closed():
            raise UsageError("the model was closed during the call; load it again")
        for pipe in wait(list(self._busy)):
            worker, number = self._busy.pop(pipe)
            self._idle.append(worker)
            try:
                self._done[number] = worker.receive()
            except EmbeddingBackbonesError as exc:
                self._done[number] = exc


def _serve(
    pipe: _Pipe, folder: Path, towers: Mapping[TowerName, Tower], output_dim: int, options: SessionOptions
) -> None:
    """Load the towers in a worker process, then embed windows until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    try:
        pipeline = Pipeline(folder, towers, output_dim, options)
        pipe.send(pipeline.info)
    except EmbeddingBackbonesError as exc:
        pipe.send(exc)
        return
    with suppress(EOFError, OSError):
        while True:
            items, embed_options = pipe.recv()
            try:
                pipe.send(concatenate(pipeline.stream(items, embed_options), embed_options.truncate_dim or output_dim))
            except EmbeddingBackbonesError as exc:
                pipe.send(exc)


def _shift(part: PartialEmbeddings | EmbeddingBackbonesError, start: int) -> PartialEmbeddings:
    """Return ``part`` with indices that count from ``start`` instead of 0, or raise it if it is an error."""
    if isinstance(part, EmbeddingBackbonesError):
        raise _shift_error(part, start) if isinstance(part, ItemError) else part
    failures = [_shift_error(failure, start) for failure in part.failures]
    return part._replace(kept=part.kept + start, failures=failures, truncated=part.truncated + start)


def _shift_error(error: ItemError, start: int) -> ItemError:
    return ItemError(start + error.index, error.item, error.reason)
