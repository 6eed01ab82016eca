"""Embed items in several processes: side by side on a CPU, or one process per GPU."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from operator import length_hint
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from runtime.artifact.manifest import ImagePreprocessing, Tower, TowerName
from runtime.errors import EmbeddingBackbonesError, InferenceError, ItemError, UsageError, one_line
from runtime.inference.batching import windows
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import (
    BackendInfo,
    CheckPipeline,
    OnProgress,
    PartialEmbeddings,
    Pipeline,
    concatenate,
    item_name,
)
from runtime.inference.tower import DEFAULT_BATCH_SIZES, BatchSizes, sizes_of_call, towers_of_call
from runtime.preprocess.item import UnusableItemError
from runtime.session.provider_options import OPTIONS, replace_device
from runtime.session.providers import PROVIDERS
from runtime.session.session import SessionOptions
from runtime.whole_number import is_whole

_WINDOWS_AHEAD = 2  # per worker and call; it bounds how far a fast worker gets ahead of a slow one
_LEAST_TEXTS = 8  # per window: a message to a worker costs about as much as one short text
_Pipe: TypeAlias = Any  # a Connection, or on Windows a PipeConnection
_Embed: TypeAlias = "Callable[[_WorkerProcess], PartialEmbeddings]"  # a window, with the worker that is idle first
_Done: TypeAlias = "SimpleQueue[PartialEmbeddings | BaseException]"  # one result, or the error instead
_Tasks: TypeAlias = "SimpleQueue[tuple[_Embed, _Done] | None]"  # None: no more tasks will come


def split_options(
    options: SessionOptions, workers: int | None, device_ids: Sequence[int] | None
) -> list[SessionOptions]:
    """Return the options of each process, from resolved ``options``: of this process, if it has no workers.

    A worker has its share of the threads, and its GPU.

    Raises:
        UsageError: The numbers contradict each other, or the provider has no GPUs.
    """
    if workers is None and device_ids is None:
        return [options]
    if device_ids is not None:
        _check_device_ids(device_ids)
    if device_ids is not None and workers not in (None, len(device_ids)):
        raise UsageError(f"workers is {workers} with {len(device_ids)} device_ids; leave one of them out")
    count = len(device_ids) if device_ids is not None else workers
    if not is_whole(count, 1):
        raise UsageError(f"workers is {count!r}, it must be a whole number from 1 up")
    share = options.with_threads(max(1, (options.threads or 1) // count))
    if device_ids is None:
        return [share] * count
    provider = "cuda" if options.provider == "auto" else options.provider
    chosen = options.provider_options or OPTIONS[provider]()
    return [replace(share, provider=provider, provider_options=replace_device(chosen, each)) for each in device_ids]


def _check_device_ids(device_ids: object) -> None:
    if not isinstance(device_ids, Collection) or not all(is_whole(each) for each in device_ids):
        raise UsageError(f"device_ids is {device_ids!r}, it must be a list of the numbers of GPUs, such as [0]")
    if not len(device_ids) or len(set(device_ids)) < len(device_ids):
        raise UsageError(f"device_ids are {list(device_ids)}, they must be one or more different GPUs")


def divide_items(count: int, workers: int, sizes: BatchSizes) -> int:
    """Return the size of the windows of ``count`` items, so that each of the ``workers`` gets about as many items."""
    share = -(-count // workers)
    rounds = max(1, -(-share // sizes.window))
    return max(min(sizes.chunk, _LEAST_TEXTS), -(-share // rounds))


class Workers:
    """Worker processes that embed the windows of a stream side by side.

    Attributes:
        info: The active provider, threads and graphs of the first worker.
        processes: The processes.
    """

    def __init__(
        self,
        folder: Path,
        towers: Mapping[TowerName, Tower],
        output_dim: int,
        options: Sequence[SessionOptions],
        check: CheckPipeline | None = None,
    ) -> None:
        """Start a process for each of ``options``, and wait until all processes have loaded ``towers``.

        Each process then calls ``check``, which must have a pickle, with its pipeline.

        Raises:
            UsageError: This process is daemonic and may not have children.
            EmbeddingBackbonesError: A process cannot start or load a tower, or its check fails.
        """
        if multiprocessing.current_process().daemon:
            raise UsageError(
                "workers cannot start in a daemonic process, such as one of multiprocessing.Pool; load without workers "
                "there, or take concurrent.futures.ProcessPoolExecutor"
            )
        self._process_id = os.getpid()
        try:
            self._workers = [_WorkerProcess(folder, towers, output_dim, share, check) for share in options]
        except OSError as exc:
            raise cannot_start(exc) from exc
        self._towers = towers
        self.processes: list[BaseProcess] = [worker.process for worker in self._workers]
        try:
            infos: list[BackendInfo] = [worker.receive() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.info = infos[0]
        self._tasks: _Tasks = SimpleQueue()
        weakref.finalize(self, self._tasks.put, None)  # the threads end when this object is deleted
        for worker in self._workers:
            arguments = self._tasks, worker, self._workers
            threading.Thread(target=_run_tasks, args=arguments, name="worker", daemon=True).start()

    def stream(
        self, items: Iterable[Any], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yield the vectors and errors of ``items``, as :meth:`runtime.inference.pipeline.Pipeline.stream` does.

        Several calls may be open at once, in one thread or in several: their windows take turns. Ctrl-C ends the
        workers. A worker that died fails the call that meets it. Later calls go on with the workers that live.

        Raises:
            InferenceError: A worker has died.
            UsageError: The workers belong to the process that forked this one, or were closed.
        """
        if self._process_id != os.getpid():
            raise UsageError("the workers belong to the process that forked this one; load the model after the fork")
        abandoned = threading.Event()
        try:
            for part in self._embed_windows(windows(items, self._window_size(items, options)), options, abandoned):
                if on_progress:
                    on_progress(len(part.kept) + len(part.failures))
                yield part
        except KeyboardInterrupt:
            self.close()
            raise
        finally:
            abandoned.set()

    def _embed_windows(
        self, read: Iterator[list[Any]], options: EmbedOptions, abandoned: threading.Event
    ) -> Iterator[PartialEmbeddings]:
        """Yield the parts of the windows that are ``read``, in order."""
        pending: deque[_Done] = deque()
        start = 0
        for window in read:
            if len(pending) == _WINDOWS_AHEAD * len(self._workers):
                yield _wait_for(pending.popleft())
            done: _Done = SimpleQueue()
            self._tasks.put((partial(self._embed, window, start, options, abandoned), done))
            pending.append(done)
            start += len(window)
        while pending:
            yield _wait_for(pending.popleft())

    def _embed(
        self, window: list[Any], start: int, options: EmbedOptions, abandoned: threading.Event, worker: _WorkerProcess
    ) -> PartialEmbeddings:
        """Embed a window whose first item has the index ``start``, unless its stream is ``abandoned``."""
        if abandoned.is_set():
            return concatenate((), 0)
        try:
            part = worker.embed(window, options, self._prepare_to_send(options.tower))
        except ItemError as exc:
            raise _in_stream(exc, window, start) from None
        failures = [_in_stream(failure, window, start) for failure in part.failures]
        return part._replace(kept=part.kept + start, failures=failures, truncated=part.truncated + start)

    def _prepare_to_send(self, tower: TowerName | None) -> Callable[[Any], Any]:
        """Return a function that prepares an item for a pickle.

        A PIL image becomes an array of its pixels: its pickle would lack the tags of its file that tell what they mean.
        """
        recipe = self._towers["image"].preprocessing if "image" in self._towers else None
        if not isinstance(recipe, ImagePreprocessing) or tower not in (None, "image"):
            return lambda item: item
        from PIL import Image

        from runtime.preprocess.image import load_pixels

        return lambda item: load_pixels(item, recipe.alpha) if isinstance(item, Image.Image) else item

    def _window_size(self, items: Iterable[Any], options: EmbedOptions) -> int:
        """Return the number of items per window: a pipeline's, if the number of ``items`` is unknown."""
        towers = towers_of_call(items, (options.tower,) if options.tower else self.info.towers)
        device = PROVIDERS[self.info.provider].device
        sizes = sizes_of_call((DEFAULT_BATCH_SIZES[name, device] for name in towers), options.batch_size)
        count = length_hint(items, -1)
        return sizes.window if count < 0 else divide_items(count, len(self._workers), sizes)

    def close(self) -> None:
        """End the processes, unless they belong to the process that forked this one."""
        if self._process_id != os.getpid():
            return
        for worker in self._workers:
            worker.close()


def cannot_start(exc: OSError) -> EmbeddingBackbonesError:
    """Return the error of a worker process that the system does not start."""
    limits = "the limits of open files (`ulimit -n`) and processes (`ulimit -u`)"
    return EmbeddingBackbonesError(
        f"cannot start a worker process ({exc.strerror or exc}); raise {limits}, or use fewer workers"
    )


class _WorkerProcess:
    """A process, and the pipe to it.

    Attributes:
        process: The process.
        has_ended: Whether a task has found that the process died or was closed.
    """

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA's state and the tokenizers' threads
        self.pipe, remote = context.Pipe()
        self.process = context.Process(target=_serve, args=(remote, *arguments), daemon=True)
        self.process.start()
        remote.close()
        self._lock = threading.Lock()  # held by a thread from the first byte of its task to the last of the answer
        self._closed = False
        self.has_ended = False

    def embed(self, items: list[Any], options: EmbedOptions, prepare: Callable[[Any], Any]) -> PartialEmbeddings:
        """Embed a window of items, each prepared for its pickle. Other threads wait until the process is idle."""
        with self._lock:
            try:
                self._send(items, options, prepare)
            except OSError as exc:
                raise self._explain_end() from exc
            part: PartialEmbeddings = self.receive()
        return part

    def _send(self, items: list[Any], options: EmbedOptions, prepare: Callable[[Any], Any]) -> None:
        """Send strings in one message, others one by one: some have no pickle, and large ones fill the memory.

        The process reads a list of strings, the number of items that follow, the options and the limit of pixels.
        """
        if set(map(type, items)) == {str}:
            self.pipe.send((items, 0, options, _read_pixel_limit()))
            return
        self.pipe.send(([], len(items), options, _read_pixel_limit()))
        for item in items:
            self.pipe.send_bytes(_pickle(item, prepare))

    def receive(self) -> Any:
        """Return the answer to the last task, or raise the error that the process sent."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError) as exc:
            raise self._explain_end() from exc
        if isinstance(answer, EmbeddingBackbonesError):
            try:
                raise answer
            finally:
                del answer  # as in runtime.background
        return answer

    def close(self) -> None:
        """End the process. A thread that waits for it gets an error."""
        self._closed = True
        self.process.terminate()
        self.process.join()
        with self._lock:  # another file could get the number of the pipe while a thread reads from it
            self.pipe.close()

    def _explain_end(self) -> EmbeddingBackbonesError:
        self.has_ended = True
        if self._closed:
            return UsageError("the model was closed, by close() or Ctrl-C; load it again")
        self.process.join(1)
        if self.process.exitcode == 1:
            return InferenceError(
                "a worker process ended with an error, printed above; a script that loads with workers needs "
                "`if __name__ == '__main__':`"
            )
        return InferenceError(
            f"a worker process has died (exit code {self.process.exitcode}), perhaps for lack of memory; load again "
            "with fewer workers or a smaller batch_size"
        )


def _serve(
    pipe: _Pipe,
    folder: Path,
    towers: Mapping[TowerName, Tower],
    output_dim: int,
    options: SessionOptions,
    check: CheckPipeline | None,
) -> None:
    """Load and check the towers in a worker process, then embed windows until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    try:
        pipeline = Pipeline(folder, towers, output_dim, options)
        if check is not None:
            check(pipeline)
        pipe.send(pipeline.info)
    except EmbeddingBackbonesError as exc:
        pipe.send(exc)
        return
    with suppress(EOFError, OSError):
        while True:
            strings, count, embed_options, pixel_limit = pipe.recv()
            if "image" in towers:
                _set_pixel_limit(pixel_limit)
            items = strings or [_unpickle(pipe.recv_bytes()) for _ in range(count)]
            pipe.send(_answer(pipeline, items, embed_options))


def _read_pixel_limit() -> int | None:
    """Return ``PIL.Image.MAX_IMAGE_PIXELS``, which the caller may have set; ``None``: no limit, or Pillow is unused."""
    pillow = sys.modules.get("PIL.Image")
    return pillow.MAX_IMAGE_PIXELS if pillow else None


def _set_pixel_limit(limit: int | None) -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = limit


def _answer(pipeline: Pipeline, items: list[Any], options: EmbedOptions) -> PartialEmbeddings | EmbeddingBackbonesError:
    try:
        return concatenate(pipeline.stream(items, options), options.truncate_dim or pipeline.output_dim)
    except EmbeddingBackbonesError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001  the process goes on, and the caller gets the error
        return InferenceError(
            f"a worker process failed ({type(exc).__name__}: {one_line(exc)}); load without workers to see where"
        )


def _pickle(item: object, prepare: Callable[[Any], Any]) -> bytes:
    """Return the pickle of a prepared item, or of the reason why it has none."""
    try:
        return pickle.dumps(prepare(item), pickle.HIGHEST_PROTOCOL)
    except Exception as exc:  # noqa: BLE001  an item may raise anything
        return pickle.dumps(_not_sent(exc))


def _unpickle(data: bytes) -> object:
    """Return the item of a pickle, or the reason why it cannot be made."""
    try:
        return pickle.loads(data)  # noqa: S301  from the parent process
    except Exception as exc:  # noqa: BLE001  an item may raise anything
        return _not_sent(exc)


def _not_sent(exc: Exception) -> UnusableItemError:
    return UnusableItemError(
        f"it cannot be sent to a worker process ({type(exc).__name__}: {one_line(exc)}); give another kind of item, or "
        "load without workers"
    )


def _in_stream(error: ItemError, window: Sequence[Any], start: int) -> ItemError:
    """Return the error of an item of ``window`` with its index in the stream, and named as the caller gave it."""
    return ItemError(start + error.index, item_name(window[error.index]), error.reason)


def _run_tasks(tasks: _Tasks, worker: _WorkerProcess, workers: Sequence[_WorkerProcess]) -> None:
    """Run tasks with ``worker`` until it ends. The last of the ``workers`` stays, so that each task gets its error."""
    while _run_task(tasks, worker):
        if worker.has_ended and not all(each.has_ended for each in workers):
            return
    tasks.put(None)  # for the next thread


def _run_task(tasks: _Tasks, worker: _WorkerProcess) -> bool:
    """Wait for a task, and run it. Return whether there was one. A thread that waits holds no window in memory."""
    task = tasks.get()
    if task is None:
        return False
    embed, done = task
    try:
        done.put(embed(worker))
    except BaseException as exc:  # noqa: BLE001  the caller raises it
        done.put(exc)
    return True


def _wait_for(done: _Done) -> PartialEmbeddings:
    """Return the result of a window, or raise its error. Ctrl-C ends this wait: see :mod:`runtime.background`."""
    result = done.get()
    if isinstance(result, BaseException):
        try:
            raise result
        finally:
            del result  # as in runtime.background
    return result
