"""Load an ONNX graph on one execution provider, and run it."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from runtime.array_types import Feeds, Float32Array
from runtime.artifact.external_data import check_external_data
from runtime.artifact.manifest import TensorSpec, Tower
from runtime.errors import (
    ArtifactError,
    EmbeddingBackbonesError,
    InferenceError,
    IntegrityError,
    OutOfMemoryError,
    ProviderError,
    UsageError,
    one_line,
)
from runtime.machine import cpu
from runtime.machine.threads import available_threads
from runtime.session.cancellation import CancellationToken
from runtime.session.graph_operators import read_operators
from runtime.session.graph_sessions import OPEN, GraphSessions
from runtime.session.graph_version import find_missing_support
from runtime.session.io_binding import DeviceRunner
from runtime.session.options import ARM_BF16, SLOW_ON_CPU, exact_int8, session_options
from runtime.session.provider_options import (
    CHANNELS_LAST,
    ON_TENSOR_CORES,
    OPTIONS,
    CpuOptions,
    CudaOptions,
    ProviderOptions,
    TensorRtOptions,
    device_of,
    resolve_options,
    uses_cuda_graphs,
)
from runtime.session.providers import (
    PROVIDERS,
    ExecutionProvider,
    available_providers,
    find_provider,
    find_provider_obstacle,
    import_onnxruntime,
)
from runtime.session.tensorrt_profile import profile_shapes
from runtime.session.variant_selection import GraphChoice, choose_graph, warn_of_choice

if TYPE_CHECKING:
    import onnxruntime

_LOG = logging.getLogger("runtime")
_HELD_TWICE_BYTES = 1 << 30  # larger weights are in memory once, for whichever kind of run comes first
# Messages of ONNX Runtime's arena (the second one with a memory limit), of CUDA and its libraries, and of C++.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|available memory of \d+ is smaller|out of memory|STATUS_ALLOC_FAILED|bad.alloc",
    re.IGNORECASE,
)
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}


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
        return replace(self, provider=provider, provider_options=options, threads=threads)


def _fits(number: int | None, largest: int) -> bool:
    return number is None or (isinstance(number, Integral) and 1 <= number <= largest)


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
            IntegrityError: ONNX Runtime cannot load the file, or its inputs and output are not those of ``tower``.
            ArtifactError: The graph is too new for the installed ONNX Runtime.
            UsageError: An option is invalid, or there is no such variant.
        """
        options = options.resolved()
        self.threads = options.threads or 1
        self._output, self._has_convolutions = tower.output, tower.preprocessing.kind == "image"
        if options.provider == "auto":
            first = self._open_first_usable(folder, tower, options)
        else:
            first = self._open(folder, tower, options, find_provider(options.provider))
        _check_signature(first, tower, self._files[0])
        self._device_runner = DeviceRunner(first, tower.output, self.provider, self.provider_options)
        self.concurrent_batches = self._count_concurrent(options)
        self._sessions = GraphSessions(
            first,
            self._open_again,
            threads=self.threads,
            share=self.threads // self.concurrent_batches,
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
            InferenceError: ONNX Runtime fails in another way, or the run was cancelled.
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
            if self.provider.device != "cpu":
                return self._device_runner.run(feeds, run_options)
            session = self._sessions.take(side_by_side=side_by_side)
            output: Float32Array = session.run([self._output.name], dict(feeds), run_options)[0]
        except EmbeddingBackbonesError:
            raise
        except Exception as exc:  # onnxruntime's exceptions have no common base class
            kind = OutOfMemoryError if _OUT_OF_MEMORY.search(str(exc)) else InferenceError
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
            self._sessions.close_unused()

    def trace(self, feeds: Feeds) -> list[dict[str, Any]]:
        """Run the graph once on ``feeds``, in a session of its own, and return the events of ONNX Runtime's profile."""
        with TemporaryDirectory() as folder:
            session = self._open_again(self.threads, trace=Path(folder, "trace"))
            session.run([self._output.name], dict(feeds))
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        return events

    def _count_concurrent(self, options: SessionOptions) -> int:
        """Return the number of batches side by side. With a limit of memory on the CPU, batches take turns."""
        settings = self.provider_options
        if self.provider.device != "cpu":  # one batch copies while the other computes
            default = 1 if uses_cuda_graphs(settings) else min(2, self.threads)
        else:
            is_limited = isinstance(settings, CpuOptions) and settings.memory_limit_bytes is not None
            default = self.threads if self.provider.name == "cpu" and not is_limited else 1
        return options.concurrent_batches or default

    def _open_again(self, threads: int, *, trace: Path | None = None) -> onnxruntime.InferenceSession:
        """Open the graph with another number of threads, with a trace, or in a forked process.

        The files are not hashed again, but must have the size and time that they had when they were loaded.
        """
        if [*map(_file_state, self._files)] != self._state:
            raise IntegrityError(f"{self._files[0]} has changed since the model was loaded; load it anew")
        return open_graph(self._files[0], self.provider, self.provider_options, threads, self._further, trace=trace)

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
        choice = choose_graph(tower, provider, settings, options.variant)
        warn_of_choice(choice, tower, provider, settings)
        listed = next((each.external_data for each in tower.variants.values() if each.graph == choice.graph), None)
        listed = listed if choice.graph != tower.graph else tower.external_data
        check_external_data(folder, choice.graph, listed)
        if uses_cuda_graphs(settings):
            check_recordable(folder / choice.graph)
        self._further = options_for_graph(settings, tower, choice)
        session = open_graph(folder / choice.graph, provider, settings, self.threads, self._further)
        self.choice = choice if options.variant == "auto" else replace(choice, reason=options.variant_reason)
        self.provider, self.provider_options, self.provider_reason = provider, settings, options.reason
        # The path is absolute: a forked daemon may have changed its folder.
        self._files = tuple(folder.absolute() / name for name in (choice.graph, listed) if name)
        self._state = [*map(_file_state, self._files)]
        return session


def check_recordable(path: Path) -> None:
    """Check that a CUDA graph can record the ONNX file ``path``.

    Raises:
        ProviderError: It has loops or conditions, whose steps the CPU decides.
    """
    found = sorted(read_operators(path) & _CONTROL_FLOW)
    if found:
        raise ProviderError(f"cuda_graphs cannot record {path}: it has the operator {found[0]}; leave cuda_graphs out")


def open_graph(
    path: Path,
    provider: ExecutionProvider,
    settings: ProviderOptions,
    threads: int,
    further: Mapping[str, str] = MappingProxyType({}),
    *,
    trace: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open an ONNX file on a provider, without a fallback to another one.

    ``further`` are more provider options. With ``trace``, its runs are recorded in a file whose name begins so.

    Raises:
        ProviderError: The provider is not usable, or cannot load the graph.
        IntegrityError: ONNX Runtime cannot load the graph.
        ArtifactError: The graph is too new for the installed ONNX Runtime.
    """
    ort = import_onnxruntime()
    obstacle = find_provider_obstacle(provider)
    if obstacle:
        raise ProviderError(obstacle)
    if isinstance(settings, CpuOptions) and settings.arm_bf16 and not cpu.has_arm_bf16():
        raise ProviderError(
            f"arm_bf16 needs Linux on an Arm CPU with instructions for bfloat16, and this {platform.machine()} CPU has "
            "none; leave the option out"
        )
    try:
        session = ort.InferenceSession(
            str(path),
            _session_options(settings, threads, trace),
            providers=_with_fallbacks(provider, settings, threads, further),
            enable_fallback=False,  # else a failed run continues on the CPU, and only a print() tells
            disabled_optimizers=SLOW_ON_CPU if provider.name == "cpu" else None,
        )
    except Exception as exc:  # onnxruntime's exceptions have no common base class
        missing = find_missing_support(str(exc))
        if missing:  # no other provider of this onnxruntime knows it either
            raise ArtifactError(
                f"{path} is too new for the installed onnxruntime {ort.__version__}: it needs {missing}; upgrade "
                "onnxruntime, or export the artifact again with a lower --opset"
            ) from exc
        if provider.name == "cpu":
            raise IntegrityError(
                f"onnxruntime cannot load {path} ({one_line(exc)}); copy or export the artifact again"
            ) from exc
        remedy = "leave cuda_graphs out: it needs every node on the GPU" if uses_cuda_graphs(settings) else ""
        raise ProviderError(
            f"the provider {provider.name} cannot load {path} ({one_line(exc)}); {remedy or 'take another provider'}"
        ) from exc
    if provider.onnxruntime_name not in session.get_providers():  # onnxruntime fell back to the CPU and only logged it
        raise ProviderError(
            f"onnxruntime did not start the provider {provider.name}; fix the cause that it logged above, or take "
            "another provider"
        )
    OPEN.add(session)
    return session


def _file_state(path: Path) -> tuple[int, int] | None:
    """Return what changes with the content of a file; ``None`` if it is gone."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _session_options(settings: ProviderOptions, threads: int, trace: Path | None) -> onnxruntime.SessionOptions:
    config = dict(exact_int8())
    if isinstance(settings, CpuOptions):
        # Without the stop, threads spin for some 30 ms after a run, and take the time from other batches and Python.
        stop, never = {"session.force_spinning_stop": "1"}, {"session.intra_op.allow_spinning": "0"}
        config |= never if settings.spinning is False else stop
        config |= ARM_BF16 if settings.arm_bf16 else {}
    options = session_options(threads=threads, config=config)
    options.enable_mem_pattern = False  # it would keep an allocation plan for every input shape
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    return options


def _with_fallbacks(
    provider: ExecutionProvider, settings: ProviderOptions, threads: int, further: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's list of providers. Nodes that TensorRT does not support run on CUDA."""
    chosen = [(provider.onnxruntime_name, {**settings.settings(threads), **further})]
    if isinstance(settings, TensorRtOptions):
        cuda = CudaOptions(device_id=settings.device_id)
        chosen.append((PROVIDERS["cuda"].onnxruntime_name, cuda.settings(threads)))
    return chosen


def options_for_graph(settings: ProviderOptions, tower: Tower, choice: GraphChoice) -> Mapping[str, str]:
    """Return the provider options that depend on the graph, not only on the user's settings."""
    if isinstance(settings, TensorRtOptions):
        return profile_shapes(tower) if settings.profile else {}
    if not isinstance(settings, CudaOptions) or choice.name != "fp16":
        return {}
    return ON_TENSOR_CORES | (CHANNELS_LAST if tower.preprocessing.kind == "image" else {})


def _check_signature(session: onnxruntime.InferenceSession, tower: Tower, path: Path) -> None:
    expected = [*tower.inputs, tower.output]
    actual = [
        TensorSpec(name=arg.name, dtype=_DTYPES.get(arg.type, arg.type), shape=tuple(arg.shape))
        for arg in [*session.get_inputs(), *session.get_outputs()]
    ]
    if actual != expected:
        raise IntegrityError(
            f"{path} has the inputs and outputs {actual}, the manifest has {expected}; export the artifact again"
        )
