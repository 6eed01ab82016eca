"""What can go wrong in an export; a branch of the tree in ``runtime.errors``.

EmbeddingBackbonesError
└── ExportError
    ├── UnknownBackboneError       no such name in the catalogue
    ├── WeightsError               the weights cannot be used
    │   ├── WeightsUnavailableError    they cannot be had: no network, no such file
    │   └── WeightsMismatchError       they are of another model
    ├── GraphError                 torch cannot trace the model, or the graph breaks its contract
    ├── ParityError                the graph does not agree with torch
    ├── VariantError               another precision cannot be made
    │   ├── FloorError                 it can, and does not reach its floors
    │   └── QuantizationError          the graph cannot be computed in 8 bits
    └── DestinationError           the artifact cannot be written there
"""

from __future__ import annotations

from runtime.errors import EmbeddingBackbonesError


class ExportError(EmbeddingBackbonesError):
    """Root of every error that an export raises on purpose."""


class UnknownBackboneError(ExportError):
    """The catalogue has no backbone of that name."""


class WeightsError(ExportError):
    """The weights cannot be used."""


class WeightsUnavailableError(WeightsError):
    """The weights cannot be had: the hub cannot be reached, or there is no such file."""


class WeightsMismatchError(WeightsError):
    """The checkpoint does not fit the backbone; the message lists the keys."""


class GraphError(ExportError):
    """torch cannot trace the model, or the graph is not what the artifact promises."""


class ParityError(ExportError):
    """The graph does not agree with torch; the message holds the figures."""


class VariantError(ExportError):
    """A variant of a graph does not reach its floors, or cannot be made; the message holds the figures."""


class FloorError(VariantError):
    """A variant does not reach its floors on items that it was not made from.

    Attributes:
        min_cosine: The smallest cosine similarity that it reaches.
    """

    def __init__(self, message: str, min_cosine: float) -> None:
        """Keeps the figure beside the message."""
        super().__init__(message)
        self.min_cosine = min_cosine


class QuantizationError(VariantError):
    """The graph cannot be computed in 8 bits."""


class DestinationError(ExportError):
    """The artifact cannot be written where it should go; nothing is left there."""
