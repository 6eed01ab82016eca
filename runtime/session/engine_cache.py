"""The folder in which TensorRT keeps the compiled engines of one graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.errors import IntegrityError
from runtime.machine.cache_folder import usable_cache
from runtime.session.provider_options import TensorRtOptions, forbids_tf32


def engine_cache(options: TensorRtOptions, files: Sequence[Path]) -> Mapping[str, str]:
    """Return the provider options that keep the engines of the graph in ``files``: the ONNX file and its weights.

    Each content of the files has a folder of its own. ONNX Runtime names an engine after the names in the graph, but
    not after the weights that are compiled into it. A retrained model would run with the weights of the old one.

    Source: ``TRTGenerateId`` in onnxruntime/core/providers/tensorrt/tensorrt_execution_provider_utils.h of
    https://github.com/microsoft/onnxruntime

    Raises:
        UsageError: The options name a folder that cannot be written.
        IntegrityError: A file cannot be read.
    """
    folder = usable_cache("tensorrt", options.cache_folder)
    if folder is None:
        return {}
    arithmetic = "fp32" if forbids_tf32() else "tf32"  # an engine may only run as it was compiled
    own = usable_cache("tensorrt", str(Path(folder, f"{_hash(files)}-{arithmetic}")))
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(own)}


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as exc:
            raise IntegrityError(f"{path} cannot be read ({exc.strerror}); export the artifact again") from exc
    return digest.hexdigest()[:32]
