"""Remember what this machine has verified with the installed onnxruntime: variants, and reduced precisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from runtime.artifact.manifest import seal
from runtime.atomic_write import write_text
from runtime.errors import OutputError
from runtime.machine import cuda_driver
from runtime.machine.cache_folder import default_cache, usable_cache
from runtime.session.machine_facts import machine_facts
from runtime.session.provider_options import (
    CudaOptions,
    ProviderOptions,
    TensorRtOptions,
    find_reduced_precision,
    provider_of,
)
from runtime.version import __version__

_FOLDER = "verified"
_WITHOUT_EFFECT = ("device_id", "cache_folder", "memory_limit_bytes", "spinning")  # on vectors
_VERDICTS = {"passed": True, "failed": False}  # by the content of their files, which a power cut may empty
_of_this_process: dict[str, bool] = {}  # for machines without a writable cache folder


def find_verdict(artifact: str, graphs: Collection[str], options: ProviderOptions) -> bool | None:
    """Return whether graphs reproduced the golden vectors on this machine; ``None`` if they were not verified.

    A verdict holds for one content of the artifact and one set of options. It ends with an update of this package, of
    onnxruntime, or of the GPU's driver, CUDA or cuDNN. Another kind of CPU or GPU needs its own verdict.

    Args:
        artifact: Hash of the manifest.
        graphs: File names of the graphs that run.
        options: The provider's options, of which those count that may change vectors. GPUs of one kind share a verdict.
    """
    key = _key(artifact, graphs, options)
    try:
        return _VERDICTS.get((default_cache(_FOLDER) / key).read_text("utf-8"))
    except (OSError, RuntimeError, ValueError):  # RuntimeError: the user has no home folder
        return _of_this_process.get(key)


def settle(artifact: str, graphs: Collection[str], options: ProviderOptions, *, passed: bool = True) -> None:
    """Record a verdict; see :func:`find_verdict`. Without a writable cache folder, this process alone remembers it."""
    key, folder = _key(artifact, graphs, options), usable_cache(_FOLDER, None)
    try:
        if folder is not None:
            write_text(Path(folder, key), next(text for text, verdict in _VERDICTS.items() if verdict is passed))
            return
    except OutputError:
        pass
    _of_this_process[key] = passed


def _key(artifact: str, graphs: Collection[str], options: ProviderOptions) -> str:
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in _WITHOUT_EFFECT}
    gpus: tuple[str, ...] = ()
    if isinstance(options, CudaOptions | TensorRtOptions):
        gpus = cuda_driver.gpu_names()[options.device_id :][:1]
    reduced = find_reduced_precision(options)  # for TensorRT, an environment variable decides
    subject = [artifact, sorted(graphs), provider_of(options), settings, reduced and reduced.name]
    return seal([subject, dataclasses.asdict(machine_facts(gpus)), __version__])[:32]
