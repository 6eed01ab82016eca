"""Embeds images or texts from an exported artifact on ONNX Runtime, without PyTorch.

import runtime
model = runtime.load("artifacts/resnet-base")
vectors = model.embed(["a.jpg", "b.jpg"])  # [2, 2048] float32
"""

from runtime.embedder import Embedder, PartialEmbeddings, load
from runtime.errors import (
    ArtifactError,
    EmbeddingBackbonesError,
    InferenceError,
    IntegrityError,
    ItemError,
    ManifestError,
    MissingDependencyError,
    NonFiniteError,
    OutputError,
    ProviderError,
    SchemaVersionError,
    UsageError,
    VerificationError,
)
from runtime.manifest import Manifest
from runtime.verify import Verification, verify
from runtime.version import __version__

__all__ = [
    "ArtifactError",
    "Embedder",
    "EmbeddingBackbonesError",
    "InferenceError",
    "IntegrityError",
    "ItemError",
    "Manifest",
    "ManifestError",
    "MissingDependencyError",
    "NonFiniteError",
    "OutputError",
    "PartialEmbeddings",
    "ProviderError",
    "SchemaVersionError",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "load",
    "verify",
]
