"""Embed texts, images and meshes from an exported artifact with ONNX Runtime, without PyTorch.

import runtime
model = runtime.load("artifacts/resnet-base")
vectors = model.embed(["a.jpg", "b.jpg"])  # [2, 2048] float32
"""

from runtime import early_interrupt as early_interrupt  # isort: skip  # before all that takes time
from runtime import requirements as requirements  # isort: skip  # before numpy is imported
from runtime.artifact.manifest import Manifest
from runtime.errors import (
    ArtifactError,
    ClusterError,
    EmbeddingBackbonesError,
    InferenceError,
    IntegrityError,
    ItemError,
    ManifestError,
    MissingDependencyError,
    NonFiniteError,
    OutOfMemoryError,
    OutputError,
    ProviderError,
    SchemaVersionError,
    SignatureError,
    SpaceError,
    TuningError,
    UsageError,
    VerificationError,
)
from runtime.inference.embedder import Embedder
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import PartialEmbeddings
from runtime.loading.load import load
from runtime.loading.verify import Verification, verify
from runtime.machine.telemetry import switch_off as _switch_telemetry_off
from runtime.postprocess import int8_ranges, quantize
from runtime.session.provider_options import CpuOptions, CudaOptions, OpenVinoOptions, ProviderOptions, TensorRtOptions
from runtime.version import __version__

_switch_telemetry_off()  # no module above imports onnxruntime before it is needed

__all__ = [
    "ArtifactError",
    "ClusterError",
    "CpuOptions",
    "CudaOptions",
    "EmbedOptions",
    "Embedder",
    "EmbeddingBackbonesError",
    "InferenceError",
    "IntegrityError",
    "ItemError",
    "Manifest",
    "ManifestError",
    "MissingDependencyError",
    "NonFiniteError",
    "OpenVinoOptions",
    "OutOfMemoryError",
    "OutputError",
    "PartialEmbeddings",
    "ProviderError",
    "ProviderOptions",
    "SchemaVersionError",
    "SignatureError",
    "SpaceError",
    "TensorRtOptions",
    "TuningError",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "int8_ranges",
    "load",
    "quantize",
    "verify",
]
