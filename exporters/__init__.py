"""Export embedding backbones to self-describing ONNX artifacts. Importing this package does not import torch.

import exporters
exporters.describe_models(task="image-to-image")
folder = exporters.export("resnet-base", output="artifacts")
"""

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import BackboneSpec
from exporters.catalogue.tables import describe_models, list_models
from exporters.errors import (
    DestinationError,
    ExportError,
    FitError,
    FloorError,
    GraphError,
    ParityError,
    PublishError,
    QuantizationError,
    TraceError,
    TrainingDataError,
    UnknownBackboneError,
    VariantError,
    WeightsError,
    WeightsMismatchError,
    WeightsUnavailableError,
    WorseModelError,
)
from exporters.export import export
from runtime.artifact.manifest import Pooling
from runtime.artifact.parity import Tolerance
from runtime.version import __version__

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "DestinationError",
    "ExportError",
    "ExportOptions",
    "FitError",
    "FloorError",
    "GraphError",
    "ParityError",
    "Pooling",
    "PublishError",
    "QuantizationError",
    "Tolerance",
    "TraceError",
    "TrainingDataError",
    "UnknownBackboneError",
    "VariantError",
    "WeightsError",
    "WeightsMismatchError",
    "WeightsUnavailableError",
    "WorseModelError",
    "__version__",
    "describe_models",
    "export",
    "list_models",
]
