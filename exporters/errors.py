"""The errors of an export: a branch of the tree in ``runtime.errors``."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.errors import EmbeddingBackbonesError


class ExportError(EmbeddingBackbonesError):
    """Base class of every error that an export raises."""


class UnknownBackboneError(ExportError):
    """The catalogue has no backbone of that name."""


class WeightsError(ExportError):
    """The weights cannot be used."""


class WeightsUnavailableError(WeightsError):
    """The weights are not available: the hub cannot be reached, or the file does not exist."""


class WeightsMismatchError(WeightsError):
    """The checkpoint does not fit the backbone; the message lists the keys."""


class GraphError(ExportError):
    """torch cannot trace the model, or the graph differs from the manifest."""


class TraceError(GraphError):
    """torch's exporter fails on the model's operators."""


class ParityError(ExportError):
    """The graph does not agree with torch; the message holds the measurements."""


class VariantError(ExportError):
    """A variant of a graph cannot be made, or does not reach its floors; the message holds the measurements."""


class FloorError(VariantError):
    """A variant does not reach its floors on items that were not used for calibration.

    Attributes:
        min_cosine: Smallest measured cosine similarity.
    """

    def __init__(self, message: str, min_cosine: float) -> None:
        """Keep the measurement beside the message."""
        super().__init__(message, min_cosine)  # a pickle of the error makes it again from its arguments
        self.min_cosine = min_cosine

    def __str__(self) -> str:
        return str(self.args[0])


class QuantizationError(VariantError):
    """The graph cannot be computed in 8 bits."""


class PublishError(ExportError):
    """An artifact cannot have a layout, or the layout does not give the vectors of the artifact."""


class FitError(ExportError):
    """The training fails, for example because the loss is no longer a number."""


class TrainingDataError(FitError):
    """The training or evaluation data cannot be used; the message names the rows."""


class WorseModelError(FitError):
    """The training made the model worse on the evaluation data, so no artifact is written.

    Attributes:
        before: Metrics of the model before the training, by name.
        after: Metrics afterwards.
    """

    def __init__(self, message: str, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Keep the metrics beside the message."""
        super().__init__(message, before, after)  # as in FloorError
        self.before, self.after = before, after

    def __str__(self) -> str:
        return str(self.args[0])


class DestinationError(ExportError):
    """The artifact cannot be written to its destination; nothing is left there."""
