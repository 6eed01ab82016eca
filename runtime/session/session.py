"""An ONNX graph, loaded on one execution provider that is known to be active."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.artifact.manifest import TensorSpec, Tower
from runtime.errors import ArtifactError, InferenceError, IntegrityError, ProviderError, UsageError, one_line
from runtime.machine.threads import available_threads
from runtime.session.graph_version import find_newer_need
from runtime.session.io_binding import DeviceRunner, Feeds, Vectors
from runtime.session.provider_options import (
    OPTIONS,
    CpuOptions,
    CudaOptions,
    ProviderOptions,
    TensorRtOptions,
    settle_options,
)
from runtime.session.providers import (
    PROVIDERS,
    ExecutionProvider,
    available_providers,
    find_obstacle,
    find_provider,
    import_onnxruntime,
)
from runtime.session.variant_selection import Choice, choose

if TYPE_CHECKING:
    import onnxruntime

_LOG = logging.getLogger("runtime")
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
_ERRORS_ONLY = 3
# Where a CPU lacks VNNI, onnxruntime adds up products of unsigned and signed 8 bits in 16, and cuts off what exceeds
# them. By this it makes the weights unsigned there, which is slower and right; elsewhere it changes nothing.
EXACT_PRODUCTS = ("session.x64quantprecision", "1")
SLOW_ON_CPU = ["SkipLayerNormFusion"]  # of onnxruntime 1.31; what it makes takes three times as long as the two before


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a graph is loaded.

    Attributes:
        provider: ``cpu``, ``cuda``, ``tensorrt`` or ``openvino``; ``auto`` takes the first of cuda, openvino, cpu that
            works.
        provider_options: Settings of that provider; they name it where ``provider`` is ``auto``.
        threads: Threads of one run; by default as many as affinity mask and container quota allow.
        variant: ``auto``, or the name of one of the artifact's graphs.
        batch_size: Items of a batch by default, for images and meshes; ``None`` for the usual budget.
        reason: Why it is the provider that is named, for a person.
        variant_reason: Why it is the variant that is named, for a person.
    """

    provider: str = "auto"
    provider_options: ProviderOptions | None = None
    threads: int | None = None
    variant: str = "auto"
    batch_size: int | None = None
    reason: str = "as requested"
    variant_reason: str = "as requested"

    def settled(self) -> SessionOptions:
        """Returns these options with the provider that its options name, and a number of threads.

        Raises:
            UsageError: They contradict each other, there is no such provider, or the machine has not so many cores.
        """
        provider, options = settle_options(self.provider, self.provider_options)
        if provider != "auto":
            find_provider(provider)
        cores = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise UsageError(f"threads is {self.threads}, it must be from 1 to {cores}, the number of cores")
        threads = self.threads or available_threads()
        return replace(self, provider=provider, provider_options=options, threads=threads)


class Session:
    """One loaded graph.

    Attributes:
        provider: The execution provider that runs it.
        provider_options: Its settings.
        provider_reason: Why it is this one.
        choice: The graph that runs.
        threads: Number of threads that one run uses.
    """

    def __init__(self, folder: Path, tower: Tower, options: SessionOptions) -> None:
        """Loads a graph of ``tower``.

        Args:
            folder: The artifact.
            tower: What the manifest says of it.
            options: How.

        Raises:
            ProviderError: The provider is not active, or the variant not for it.
            IntegrityError: ONNX Runtime cannot load the file, or it is not the graph that ``tower`` describes.
            UsageError: The options cannot be right, or there is no such variant.
        """
        options = options.settled()
        self.threads = options.threads or 1
        opened = _open(folder, tower, options)
        self._session, self.provider, self.provider_options, self.provider_reason, self.choice = opened
        _check_signature(self._session, tower, folder / self.choice.graph)
        self._output = tower.output
        self._on_device = DeviceRunner(self._session, tower.output, self.provider, self.provider_options)

    def run(self, feeds: Feeds, stop: CancellationToken | None = None) -> Vectors:
        """Runs the graph. Several threads may do so at once.

        Args:
            feeds: An array for each input of the graph, of its dtype and shape.
            stop: What can end the run early, from another thread.

        Returns:
            ``[batch, output_dim]`` float32.

        Raises:
            InferenceError: ONNX Runtime refuses, for want of memory, say, or was stopped.
        """
        try:
            if self.provider.device == "cpu":
                output: Vectors = self._session.run([self._output.name], dict(feeds), stop and stop.run_options)[0]
            else:
                output = self._on_device.run(feeds)
        except Exception as exc:  # onnxruntime raises a dozen types that share no base of their own
            raise InferenceError(
                f"onnxruntime cannot run the graph on a batch of {len(next(iter(feeds.values())))} by "
                f"{self.provider.name} ({one_line(exc)}); take a smaller batch_size or another provider"
            ) from exc
        return output


class CancellationToken:
    """Ends runs of a session early: what makes Ctrl-C take effect at once and not after a large batch.

    Attributes:
        run_options: What the runs are given.
    """

    def __init__(self) -> None:
        """Makes one that has not been set."""
        self.run_options: onnxruntime.RunOptions = import_onnxruntime().RunOptions()

    def cancel(self) -> None:
        """Ends the run that is under way, if any, and every later one."""
        self.run_options.terminate = True


_Opened = tuple["onnxruntime.InferenceSession", ExecutionProvider, ProviderOptions, str, Choice]


def _open(folder: Path, tower: Tower, options: SessionOptions) -> _Opened:
    threads = options.threads or 1
    if options.provider != "auto":
        provider = find_provider(options.provider)
        settings = options.provider_options or OPTIONS[provider.name]()
        choice = choose(tower, provider, settings, options.variant)
        if options.variant != "auto":
            choice = replace(choice, reason=options.variant_reason)
        session = _open_on(folder / choice.graph, provider, settings, threads)
        return session, provider, settings, options.reason, choice
    refusals: list[str] = []
    for provider in available_providers():
        if not provider.in_auto:
            continue
        settings = OPTIONS[provider.name]()
        try:
            choice = choose(tower, provider, settings, options.variant)
            session = _open_on(folder / choice.graph, provider, settings, threads)
        except ProviderError as exc:
            _LOG.warning("provider auto passes over %s: %s", provider.name, exc)
            refusals.append(provider.name)
            continue
        passed_over = f", {' and '.join(refusals)} being unusable" if refusals else ""
        reason = f"auto: the first usable one of the installed onnxruntime{passed_over}"
        return session, provider, settings, reason, choice
    raise ProviderError("the installed onnxruntime has none of cuda, openvino and cpu; install another build of it")


def _open_on(
    path: Path, provider: ExecutionProvider, settings: ProviderOptions, threads: int
) -> onnxruntime.InferenceSession:
    ort = import_onnxruntime()
    obstacle = find_obstacle(provider)
    if obstacle:
        raise ProviderError(obstacle)
    try:
        session = ort.InferenceSession(
            str(path),
            _session_options(ort, settings, threads),
            providers=_with_fallbacks(provider, settings, threads),
            enable_fallback=False,  # else a failed run goes on with the CPU, and says so by print() alone
            disabled_optimizers=SLOW_ON_CPU if provider.name == "cpu" else None,
        )
    except Exception as exc:  # onnxruntime raises a dozen types that share no base of their own
        need = find_newer_need(str(exc))
        if need:  # no other provider of this onnxruntime would know it either
            raise ArtifactError(
                f"{path} is too new for the installed onnxruntime {ort.__version__}: it needs {need}; upgrade "
                "onnxruntime, or export the artifact again with a lower --opset"
            ) from exc
        if provider.name == "cpu":
            raise IntegrityError(f"onnxruntime cannot load {path}: {one_line(exc)}") from exc
        raise ProviderError(
            f"the provider {provider.name} cannot load {path} ({one_line(exc)}); take another provider"
        ) from exc
    if provider.onnxruntime_name not in session.get_providers():  # it fell back to the CPU and only logged it
        raise ProviderError(
            f"onnxruntime did not start the provider {provider.name}, for a reason that it has logged above; "
            "mend that, or take another provider"
        )
    return session


def _session_options(ort: Any, settings: ProviderOptions, threads: int) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    options.enable_mem_pattern = False  # it keeps a plan for every shape that it meets
    options.add_session_config_entry(*EXACT_PRODUCTS)
    if isinstance(settings, CpuOptions) and not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _with_fallbacks(
    provider: ExecutionProvider, settings: ProviderOptions, threads: int
) -> list[tuple[str, dict[str, str]]]:
    """Returns ONNX Runtime's list of providers: for nodes that TensorRT does not take, CUDA is next."""
    chosen = [(provider.onnxruntime_name, settings.settings(threads))]
    if isinstance(settings, TensorRtOptions):
        cuda = CudaOptions(device_id=settings.device_id)
        chosen.append((PROVIDERS["cuda"].onnxruntime_name, cuda.settings(threads)))
    return chosen


def _check_signature(session: onnxruntime.InferenceSession, tower: Tower, path: Path) -> None:
    expected = [*tower.inputs, tower.output]
    actual = [
        TensorSpec(name=arg.name, dtype=_DTYPES.get(arg.type, arg.type), shape=tuple(arg.shape))
        for arg in [*session.get_inputs(), *session.get_outputs()]
    ]
    if actual != expected:
        raise IntegrityError(f"{path} takes and gives {actual}, where the manifest has {expected}; export it again")
