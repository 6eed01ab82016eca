"""Load an ONNX graph on one execution provider, and run it."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from runtime.array_types import Feeds, Float32Array
from runtime.artifact.external_data import check_external_data
from runtime.artifact.manifest import Tower
from runtime.errors import (
    EmbeddingBackbonesError,
    InferenceError,
    IntegrityError,
    OutOfMemoryError,
    ProviderError,
    UsageError,
    one_line,
)
from runtime.machine.threads import available_threads
from runtime.session.cancellation import CancellationToken
from runtime.session.graph_sessions import GraphSessions
from runtime.session.io_binding import GraphRecorder
from runtime.session.open_graph import (
    check_recordable,
    check_signature,
    is_out_of_memory,
    open_graph,
    options_for_graph,
)
from runtime.session.provider_options import (
    OPTIONS,
    CpuOptions,
    ProviderOptions,
    device_of,
    resolve_options,
    uses_cuda_graphs,
)
from runtime.session.providers import ExecutionProvider, available_providers, check_packages, find_provider
from runtime.session.run_turns import RunTurns
from runtime.session.variant_selection import GraphChoice, choose_graph, warn_of_choice
from runtime.whole_number import is_whole

if TYPE_CHECKING:
    import onnxruntime

_LOG = logging.getLogger("runtime")
_RUNS_ON_GPU = 2  # one batch is copied while the other is computed; more would only take memory
_HELD_TWICE_BYTES = 1 << 30  # larger weights are in memory once, for whichever kind of run comes first


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options for loading a graph."""

    # ``cpu``, ``cuda``, ``tensorrt`` or ``openvino``; ``auto`` is the first of cuda, openvino and cpu that works.
    provider: str = "auto"
    provider_options: ProviderOptions | None = None  # they imply the provider if ``provider`` is ``auto``
    threads: int | None = None  # threads to use; by default all that the affinity mask and the container quota allow
    concurrent_batches: int | None = None  # batches side by side, each on its share of the threads; by default 1 thread
    variant: str = "auto"  # ``auto``, or the name of a variant
    batch_size: int | None = None  # default for images and meshes; ``None`` for the provider's default
    reason: str = "as requested"  # why the provider was chosen
    variant_reason: str = "as requested"  # why the variant was chosen
    artifact: str = ""  # hash of the manifest, to look up verdicts of this machine; empty: look up none

    def resolved(self) -> SessionOptions:
        """Return these options with the provider that ``provider_options`` implies, and with a number of threads.

        Raises:
            UsageError: The options contradict each other, there is no such provider, or there are fewer cores.
        """
        provider, options = resolve_options(self.provider, self.provider_options)
        if provider != "auto":
            find_provider(provider)
        cores = os.cpu_count() or 1
        if not _fits(self.threads, cores):
            raise UsageError(f"threads is {self.threads!r}, it must be from 1 to {cores}, the number of cores")
        threads = self.threads or available_threads()
        if not _fits(self.concurrent_batches, threads):
            raise UsageError(
                f"concurrent_batches is {self.concurrent_batches!r}, it must be from 1 to {threads}, the threads"
            )
        if (self.concurrent_batches or 1) > 1 and _limits_memory(options):
            raise UsageError(
                f"concurrent_batches is {self.concurrent_batches}, but batches run one at a time within "
                "memory_limit_bytes; leave one of them out"
            )
        return replace(self, provider=provider, provider_options=options, threads=threads)

    def with_threads(self, threads: int) -> SessionOptions:
        """Return the options of a process that has ``threads``, and so at most as many concurrent batches."""
        batches = self.concurrent_batches and min(self.concurrent_batches, threads)
        return replace(self, threads=threads, concurrent_batches=batches)


def count_concurrent_batches(provider: ExecutionProvider, settings: ProviderOptions, threads: int) -> int:
    """Return the number of batches that share ``threads`` side by side, unless the caller chooses one.

    With a limit of memory on the CPU, batches take turns.
    """
    if provider.device != "cpu":
        return 1 if uses_cuda_graphs(settings) else min(_RUNS_ON_GPU, threads)
    return threads if provider.name == "cpu" and not _limits_memory(settings) else 1


def _limits_memory(settings: ProviderOptions | None) -> bool:
    return isinstance(settings, CpuOptions) and settings.memory_limit_bytes is not None


def _fits(number: int | None, largest: int) -> bool:
    return number is None or is_whole(number, 1, largest)


class Session:
    """A loaded graph.

    Attributes:
        provider: The execution provider that runs it.
        provider_options: The provider's settings.
        provider_reason: Why this provider was chosen.
        choice: The graph that runs.
        threads: Number of threads of a batch that runs alone.
        concurrent_batches: Number of batches that may run side by side.
    """

    provider: ExecutionProvider
    provider_options: ProviderOptions
    choice: GraphChoice
    _files: tuple[Path, ...]  # the graph, and the file of its weights if they are outside of it

    def __init__(self, folder: Path, tower: Tower, options: SessionOptions) -> None:
        """Load a graph of ``tower`` from the artifact ``folder``.

        Raises:
            ProviderError: The provider is not usable, or the variant does not support it.
            OutOfMemoryError: The memory does not suffice to load the graph.
            IntegrityError: ONNX Runtime cannot load the file, or its inputs and output are not those of ``tower``.
            ArtifactError: The graph is too new for the installed ONNX Runtime.
            MissingDependencyError: onnxruntime is not installed.
            UsageError: An option is invalid, or there is no such variant.
        """
        options = options.resolved()
        check_packages()
        self.threads = options.threads or 1
        self._output, self._has_convolutions = tower.output, tower.preprocessing.kind == "image"
        if options.provider == "auto":
            first = self._open_first_usable(folder, tower, options)
        else:
            first = self._open(folder, tower, options, find_provider(options.provider))
        check_signature(first, tower, self._files[0])
        is_on_cpu = self.provider.device == "cpu"
        records = uses_cuda_graphs(self.provider_options)
        self._recorder = GraphRecorder(first, tower.output, self.provider_options) if records else None
        self.concurrent_batches = options.concurrent_batches or count_concurrent_batches(
            self.provider, self.provider_options, self.threads
        )
        # Of a call, no more batches run side by side. More calls at once would only take more memory.
        self._turns = RunTurns(max(available_threads(), self.concurrent_batches) if is_on_cpu else _RUNS_ON_GPU)
        self._sessions = GraphSessions(
            first,
            threads=self.threads,
            share=self.threads // self.concurrent_batches if is_on_cpu else self.threads,
            keeps_both=sum(file.stat().st_size for file in self._files) <= _HELD_TWICE_BYTES,
        )

    @property
    def needs_few_shapes(self) -> bool:
        """Whether each new shape of input costs time.

        TensorRT compiles it, and a CUDA graph is recorded for it. cuDNN looks for a kernel of each convolution, which
        took seconds for EfficientNet-B4 on an H200.
        """
        searches = self.provider.name == "cuda" and self._has_convolutions
        return searches or self.provider.needs_few_shapes or uses_cuda_graphs(self.provider_options)

    def run(
        self,
        feeds: Feeds,
        cancellation: CancellationToken | None = None,
        *,
        outsized: bool = False,
        side_by_side: bool = False,
    ) -> Float32Array:
        """Return the output of the graph, ``[batch, output_dim]`` float32. Several threads may call this at once.

        Args:
            feeds: An array for each input of the graph, of its dtype and shape.
            cancellation: Lets another thread end the run early.
            outsized: Whether the batch is larger than usual. On the CPU and on CUDA, unused memory is then given back.
            side_by_side: Whether other batches run at the same time, so that this one takes its share of the threads.

        Raises:
            OutOfMemoryError: The memory of the device does not suffice.
            InferenceError: ONNX Runtime fails in another way, or the run was cancelled. Or the graph has to be opened
                again, and the memory does not suffice.
            ProviderError: The model was loaded on a GPU before this process was forked.
            IntegrityError: Its files have changed since it was loaded, and the graph has to be opened again.
        """
        if self.provider.device != "cpu" and self._sessions.is_inherited():
            raise ProviderError(
                f"a model that was loaded with {self.provider.name} cannot be used in a forked process; load it after "
                "the fork, or start processes by spawn"
            )
        arena = {"cpu": "cpu:0", "cuda": f"gpu:{device_of(self.provider_options)}"}.get(self.provider.name)
        if outsized and arena:
            run_options = (cancellation or CancellationToken()).shrinking_run_options(arena)
        else:
            run_options = cancellation and cancellation.run_options
        try:
            if self._recorder is not None:
                if cancellation and cancellation.is_cancelled:  # ONNX Runtime does not look while it replays a graph
                    raise InferenceError("the run was cancelled")
                return self._recorder.run(feeds)
            session = self._sessions.take(self._open_again, side_by_side=side_by_side)
            turn = self._turns.take()
            try:
                output: Float32Array = session.run([self._output.name], dict(feeds), run_options)[0]
            finally:
                del turn  # an error would hold it
        except EmbeddingBackbonesError:
            raise
        except Exception as exc:  # onnxruntime's exceptions have no common base class
            kind = OutOfMemoryError if is_out_of_memory(exc) else InferenceError
            raise kind(
                f"onnxruntime cannot run the graph on a batch of {len(next(iter(feeds.values())))} with "
                f"{self.provider.name} ({one_line(exc)}); take a smaller batch_size or another provider"
            ) from exc
        return output

    def yield_cores(self) -> None:
        """Let waiting threads sleep, unless the options ask for spinning: other batches will run beside most runs."""
        settings = self.provider_options
        if isinstance(settings, CpuOptions) and settings.spinning is None:
            self.provider_options = replace(settings, spinning=False)
            self._sessions.clear()

    def trace(self, feeds: Feeds) -> list[dict[str, Any]]:
        """Run the graph once on ``feeds``, in a session of its own, and return the events of ONNX Runtime's profile."""
        with TemporaryDirectory() as folder:
            session = self._open_again(self.threads, trace=Path(folder, "trace"))
            session.run([self._output.name], dict(feeds))
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        return events

    def _open_again(self, threads: int, *, trace: Path | None = None) -> onnxruntime.InferenceSession:
        """Open the graph with another number of threads, with a trace, or in a forked process.

        The files are not hashed again, but must have the size and time that they had when they were loaded.
        """
        if [*map(_file_state, self._files)] != self._state:
            raise IntegrityError(f"{self._files[0]} has changed since the model was loaded; load it anew")
        try:
            return open_graph(self._files[0], self.provider, self.provider_options, threads, self._further, trace=trace)
        except OutOfMemoryError as exc:  # which no smaller batch helps
            raise InferenceError(str(exc)) from exc

    def _open_first_usable(self, folder: Path, tower: Tower, options: SessionOptions) -> onnxruntime.InferenceSession:
        refusals: list[str] = []
        for provider in available_providers():
            if not provider.in_auto:
                continue
            skipped = f"; skipped as unusable: {', '.join(refusals)}" if refusals else ""
            reason = f"auto: the first usable provider of the installed onnxruntime{skipped}"
            try:
                return self._open(folder, tower, replace(options, reason=reason), provider)
            except ProviderError as exc:
                _LOG.warning("provider auto skips %s: %s", provider.name, exc)
                refusals.append(provider.name)
        raise ProviderError("the installed onnxruntime has none of cuda, openvino and cpu; install another build of it")

    def _open(
        self, folder: Path, tower: Tower, options: SessionOptions, provider: ExecutionProvider
    ) -> onnxruntime.InferenceSession:
        settings = options.provider_options or OPTIONS[provider.name]()
        choice = choose_graph(tower, provider, settings, options.variant, options.artifact)
        warn_of_choice(choice, tower, settings, options.artifact)
        listed = next((each.external_data for each in tower.variants.values() if each.graph == choice.graph), None)
        listed = listed if choice.graph != tower.graph else tower.external_data
        check_external_data(folder, choice.graph, listed)
        if uses_cuda_graphs(settings):
            check_recordable(folder / choice.graph)
        # The paths are absolute: a forked daemon may have changed its folder.
        files = tuple(folder.absolute() / name for name in (choice.graph, listed) if name)
        self._further = options_for_graph(settings, tower, choice, files)
        session = open_graph(folder / choice.graph, provider, settings, self.threads, self._further)
        self.choice = choice if options.variant == "auto" else replace(choice, reason=options.variant_reason)
        self.provider, self.provider_options, self.provider_reason = provider, settings, options.reason
        self._files, self._state = files, [*map(_file_state, files)]
        return session


def _file_state(path: Path) -> tuple[int, int] | None:
    """Return what changes with the content of a file; ``None`` if it is gone."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
