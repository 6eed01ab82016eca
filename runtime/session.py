"""An ONNX graph, loaded on one execution provider that is known to be active."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import InferenceError, IntegrityError, ProviderError, UsageError
from runtime.manifest import TensorSpec, Tower
from runtime.providers import (
    ExecutionProvider,
    available_providers,
    find_obstacle,
    find_provider,
    import_onnxruntime,
)
from runtime.threads import available_threads

if TYPE_CHECKING:
    import onnxruntime

_LOG = logging.getLogger("runtime")
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
_ERRORS_ONLY = 3


class Session:
    """One loaded graph.

    Attributes:
        provider: Name of the execution provider that runs it.
        provider_reason: Why it is this one.
        threads: Number of threads that one run uses.
    """

    def __init__(self, path: Path, tower: Tower, *, provider: str = "auto", threads: int | None = None) -> None:
        """Loads the graph of ``tower`` at ``path``.

        Args:
            path: The ONNX file.
            tower: What the manifest says of it.
            provider: ``cpu``, ``cuda`` or ``openvino``; ``auto`` takes the first of cuda, openvino, cpu that works.
            threads: Threads of one run; by default as many as affinity mask and container quota allow.

        Raises:
            ProviderError: The provider is not active.
            IntegrityError: ONNX Runtime cannot load the file, or it is not the graph that ``tower`` describes.
            UsageError: ``threads`` is below 1 or above the number of cores, or there is no such provider.
        """
        cores = os.cpu_count() or 1
        if threads is not None and not 1 <= threads <= cores:
            raise UsageError(f"threads is {threads}, it must be from 1 to {cores}, the number of cores")
        self.threads = threads or available_threads()
        self._session, chosen, self.provider_reason = _open(path, provider, self.threads)
        self.provider = chosen.name
        self._output = tower.output.name
        _check_signature(self._session, tower, path)

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Runs the graph.

        Args:
            feeds: An array for each input of the graph, of its dtype and shape.

        Returns:
            ``[batch, output_dim]`` float32.

        Raises:
            InferenceError: ONNX Runtime refuses, for want of memory, say.
        """
        try:
            output: np.ndarray[Any, np.dtype[np.float32]] = self._session.run([self._output], dict(feeds))[0]
        except Exception as exc:  # onnxruntime raises a dozen types that share no base of their own
            raise InferenceError(
                f"onnxruntime cannot run the graph on a batch of {len(next(iter(feeds.values())))} by {self.provider} "
                f"({_one_line(exc)}); take a smaller batch_size or another provider"
            ) from exc
        return output


def _open(path: Path, name: str, threads: int) -> tuple[onnxruntime.InferenceSession, ExecutionProvider, str]:
    if name != "auto":
        provider = find_provider(name)
        return _open_on(path, provider, threads), provider, "as requested"
    refusals: list[str] = []
    for provider in available_providers():
        try:
            session = _open_on(path, provider, threads)
        except ProviderError as exc:
            _LOG.warning("provider auto passes over %s: %s", provider.name, exc)
            refusals.append(provider.name)
            continue
        passed_over = f", {' and '.join(refusals)} being unusable" if refusals else ""
        return session, provider, f"auto: the first usable one of the installed onnxruntime{passed_over}"
    raise ProviderError("the installed onnxruntime has none of cuda, openvino and cpu; install another build of it")


def _open_on(path: Path, provider: ExecutionProvider, threads: int) -> onnxruntime.InferenceSession:
    ort = import_onnxruntime()
    obstacle = find_obstacle(provider)
    if obstacle:
        raise ProviderError(obstacle)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[(provider.onnxruntime_name, provider.options(threads))],
            enable_fallback=False,  # else a failed run goes on with the CPU, and says so by print() alone
        )
    except Exception as exc:  # onnxruntime raises a dozen types that share no base of their own
        if provider.name == "cpu":
            raise IntegrityError(f"onnxruntime cannot load {path}: {_one_line(exc)}") from exc
        raise ProviderError(
            f"the provider {provider.name} cannot load {path} ({_one_line(exc)}); take another provider"
        ) from exc
    if provider.onnxruntime_name not in session.get_providers():  # it fell back to the CPU and only logged it
        raise ProviderError(
            f"onnxruntime did not start the provider {provider.name}, for a reason that it has logged above; "
            "mend that, or take another provider"
        )
    return session


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _check_signature(session: onnxruntime.InferenceSession, tower: Tower, path: Path) -> None:
    expected = [*tower.inputs, tower.output]
    actual = [
        TensorSpec(name=arg.name, dtype=_DTYPES.get(arg.type, arg.type), shape=tuple(arg.shape))
        for arg in [*session.get_inputs(), *session.get_outputs()]
    ]
    if actual != expected:
        raise IntegrityError(f"{path} takes and gives {actual}, where the manifest has {expected}; export it again")
