"""What can go wrong, as a tree: catch the root, or the branch you can mend.

    EmbeddingBackbonesError
    ├── MissingDependencyError    a package or extra is not installed
    ├── ArtifactError             the folder is not a usable artifact
    │   ├── ManifestError         manifest.json is missing, unreadable or says something impossible
    │   ├── SchemaVersionError    the manifest is of a schema that this runtime does not read
    │   └── IntegrityError        a file is missing, or is not the one that was exported
    ├── ProviderError             the execution provider asked for is not usable here
    ├── UsageError                an argument that no artifact or machine could make right
    ├── ItemError                 one item cannot be read or embedded; it carries its index
    ├── InferenceError            the graph cannot be run on these items: too little memory, say
    ├── OutputError               the results cannot be written
    ├── ClusterError              the Ray cluster cannot be used, or its workers do not survive
    ├── NonFiniteError            the graph returned NaN or infinity
    ├── TuningError               no way of running the artifact here keeps the bounds
    └── VerificationError         the golden vectors are not reproduced on this machine

``exporters.errors`` grows its own branch from the same root.
"""

from __future__ import annotations


class EmbeddingBackbonesError(Exception):
    """Root of every error that this project raises on purpose."""


class MissingDependencyError(EmbeddingBackbonesError):
    """A package is not installed; the message holds the pip command that installs it."""


class ArtifactError(EmbeddingBackbonesError):
    """The folder is not an artifact that this runtime can use."""


class ManifestError(ArtifactError):
    """``manifest.json`` is missing, is not JSON, or does not follow the schema."""


class SchemaVersionError(ArtifactError):
    """``manifest.json`` follows a schema that this runtime does not read."""


class IntegrityError(ArtifactError):
    """A file of the artifact is missing, or differs from what the manifest records."""


class ProviderError(EmbeddingBackbonesError):
    """The execution provider that was asked for is not active; the message names the cause."""


class UsageError(EmbeddingBackbonesError, ValueError):
    """An argument has a value that cannot be right."""


class ItemError(EmbeddingBackbonesError):
    """One item cannot be read or embedded.

    Attributes:
        index: Position of the item in the caller's sequence, from 0.
        item: What names the item to a person: its path, or its type.
        reason: Why it cannot be embedded, and the way out.
    """

    def __init__(self, index: int, item: str, reason: str) -> None:
        """Builds the message from the three parts."""
        super().__init__(f"item {index} ({item}): {reason}")
        self.index = index
        self.item = item
        self.reason = reason

    def __reduce__(self) -> tuple[type[ItemError], tuple[int, str, str]]:
        """Lets the error travel between processes."""
        return type(self), (self.index, self.item, self.reason)


class InferenceError(EmbeddingBackbonesError):
    """ONNX Runtime cannot run the graph on a batch; the message holds its reason."""


class OutputError(EmbeddingBackbonesError):
    """The results cannot be written where they should go; nothing half-written is left there."""


class ClusterError(EmbeddingBackbonesError):
    """A Ray cluster cannot be started or joined, has too little, or its workers do not survive the job."""


class NonFiniteError(EmbeddingBackbonesError):
    """The graph returned NaN or infinity, so its vectors cannot be trusted."""


class TuningError(EmbeddingBackbonesError):
    """No provider, variant, number of threads and batch size keeps the bounds that were given to ``tune``."""


class VerificationError(EmbeddingBackbonesError):
    """The artifact does not give its golden vectors on this machine."""


def one_line(exc: BaseException) -> str:
    """Returns the message of another library's error, which may have several lines, on one."""
    return " ".join(str(exc).split())
