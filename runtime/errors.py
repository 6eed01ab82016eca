"""The errors of this project, as a tree. Catch the root, or a branch.

```text
EmbeddingBackbonesError
├── MissingDependencyError    a package or extra is not installed
├── ArtifactError             the folder is not a usable artifact
│   ├── ManifestError         manifest.json is missing, unreadable or invalid
│   ├── SchemaVersionError    this runtime does not read the schema of the manifest
│   └── IntegrityError        a file is missing or has changed since export
│       └── SignatureError    the artifact is not signed with the required key
├── ProviderError             the execution provider is not usable on this machine
├── UsageError                an argument is invalid
├── ItemError                 an item cannot be read or embedded
├── InferenceError            nothing can be embedded, or not these items
│   └── OutOfMemoryError      the memory of the device does not suffice
├── OutputError               the results cannot be written
├── ClusterError              the Ray cluster cannot be used, or its workers die
├── NonFiniteError            the graph returned NaN or infinity
├── SpaceError                vectors are of another vector space
├── TuningError               no setting keeps the bounds of ``tune``, or the artifact changed meanwhile
└── VerificationError         this machine does not reproduce the golden vectors
```

``exporters.errors`` adds a branch to the same root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EmbeddingBackbonesError(Exception):
    """The root of all errors of this project."""


class MissingDependencyError(EmbeddingBackbonesError):
    """A package is not installed. The message contains the pip command that installs it."""


class ArtifactError(EmbeddingBackbonesError):
    """A folder is not an artifact that this runtime can use."""


class ManifestError(ArtifactError):
    """``manifest.json`` is missing, is not JSON, or does not follow the schema."""


class SchemaVersionError(ArtifactError):
    """``manifest.json`` has a schema version that this runtime does not read."""


class IntegrityError(ArtifactError):
    """A file of the artifact is missing, or differs from its record in the manifest."""


class SignatureError(IntegrityError):
    """An artifact has no signature of the required key, or has changed since it was signed."""


class ProviderError(EmbeddingBackbonesError):
    """An execution provider is not usable. The message names the cause."""


class UsageError(EmbeddingBackbonesError, ValueError):
    """An argument has an invalid value."""


class ItemError(EmbeddingBackbonesError):
    """An item cannot be read or embedded.

    Attributes:
        index: Position of the item in the caller's sequence, from 0.
        item: Description of the item: its path, or its type.
        reason: Why it cannot be embedded, and the remedy.
    """

    def __init__(self, index: int, item: str, reason: str) -> None:
        """Keep the three parts, with lone surrogates as escapes."""
        self.index, self.item, self.reason = index, _printable(item), _printable(reason)
        super().__init__(index, self.item, self.reason)  # pickle and Celery make the error again from its arguments

    def __str__(self) -> str:
        return f"item {self.index} ({self.item}): {self.reason}"


class InferenceError(EmbeddingBackbonesError):
    """ONNX Runtime cannot run the graph, or the tokenizer cannot start its threads. The message contains the reason."""


class OutOfMemoryError(InferenceError):
    """The memory of the device does not suffice to load a graph, or for a batch, not even of one item."""


class OutputError(EmbeddingBackbonesError):
    """The results cannot be written. No partial file is left, unless the message names it."""


class ClusterError(EmbeddingBackbonesError):
    """A Ray cluster cannot be started or joined, lacks resources, or loses its workers."""


class NonFiniteError(EmbeddingBackbonesError):
    """The graph returned NaN or infinity, so its vectors cannot be trusted."""


class SpaceError(EmbeddingBackbonesError):
    """Vectors, or a pickled model, are of another vector space than the artifact."""


class TuningError(EmbeddingBackbonesError):
    """No provider, variant, number of threads and batch size keeps the bounds of ``tune``, or its artifact changed."""


class VerificationError(EmbeddingBackbonesError):
    """This machine does not reproduce the golden vectors of the artifact."""


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(exc: BaseException) -> str:
    """Return the message of an exception on one line."""
    return " ".join(str(exc).split())


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Report a package that is not installed, with the command that installs it.

    Args:
        extra: The extra of this project that installs the package, such as ``fit``; several with commas.
        purpose: The feature that needs the package, as the subject of a sentence.

    Raises:
        MissingDependencyError: The block imports a package that is not installed, or too old or new.
    """
    try:
        yield
    except ImportError as exc:
        package = exc.name if isinstance(exc, ModuleNotFoundError) else f"another version ({exc})"
        raise MissingDependencyError(
            f"{purpose} needs {package}; install it with `pip install 'embedding-backbones[{extra}]'`"
        ) from exc
