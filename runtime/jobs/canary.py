"""Embed again a sample of what a file of vectors was made of, and compare with the vectors in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from runtime.array_types import Array
from runtime.artifact.parity import REDUCED_TOLERANCE, format_cosine, row_cosines
from runtime.errors import UsageError
from runtime.inference.truncation import without_truncation_warning
from runtime.jobs.inputs import STDIN, open_inputs
from runtime.jobs.items import ItemValue
from runtime.jobs.origin import VectorOrigin, digest_item, name_precision, read_digests, read_origin
from runtime.jobs.read_vectors import find_ranges, read_vectors
from runtime.loading.golden import find_tolerance
from runtime.postprocess import dequantize, quantize

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder, Item

DEFAULT_SAMPLE = 32
# Rounding to these types may turn a difference in the last bit of float32 into a whole step.
_ROUNDED_FLOORS = {"float16": 1 - 1e-6, "int8": 1 - 1e-4}
# In less than float32, the golden items keep 0.9999 at load. Other items may be a little below it. The stored vectors
# and the new ones may err in opposite directions, which makes the distance four times as large.
_REDUCED_TOLERANCE = replace(REDUCED_TOLERANCE, min_cosine=1 - 5e-4)


class StoredRow(NamedTuple):
    """A row of a file of vectors: its position, its name, and the digest of its item."""

    row: int
    name: str
    digest: int

    def __str__(self) -> str:
        return f"row {self.row} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """The result of :func:`check_vectors`.

    Attributes:
        rows: Number of rows that were embedded again.
        min_cosine: Smallest cosine similarity of a stored vector to the new one; NaN if no row was embedded again.
        floor: Smallest cosine similarity that counts as equal.
        changed: The rows whose vectors are not equal.
        lost: The rows whose items were not found again, with the reasons.
    """

    rows: int
    min_cosine: float
    floor: float
    changed: Sequence[str]
    lost: Sequence[str]

    @property
    def passes(self) -> bool:
        """Whether every row of the sample was embedded again and is equal."""
        return bool(self.rows) and not self.changed and not self.lost


def recorded_origin(path: Path) -> VectorOrigin:
    """Return the record of how the vectors in a file were made.

    Raises:
        UsageError: The file has none, or cannot be read.
    """
    origin = None if path.is_dir() else read_origin(path)
    if origin is None:
        raise UsageError(
            f"{path} does not tell what its vectors were made of; write .npz or .parquet with `python -m runtime embed`"
        )
    return origin


def check_vectors(model: Embedder, path: Path, sample: int = DEFAULT_SAMPLE) -> CanaryResult:
    """Embed again ``sample`` rows of a file, spread evenly, and compare with the vectors in the file.

    Raises:
        UsageError: The file does not tell what its vectors were made of, or holds only their signs.
        EmbeddingBackbonesError: The graph does not run.
    """
    if sample < 1:
        raise UsageError(f"the sample has {sample} rows, it must have at least 1")
    origin, digests = recorded_origin(path), read_digests(path)
    if digests is None:
        raise UsageError(f"{path} has no digests of its items; only the outputs of a local job have them")
    stored, names = read_vectors(path, origin.truncate_dim or model.output_dim)
    chosen = np.unique(np.linspace(0, len(stored) - 1, min(sample, len(stored))).round().astype(int))
    rows = [StoredRow(int(row), (names or [])[row], int(digests[row])) for row in chosen]
    items = _find_items(rows, origin)
    lost = [f"{row}: {_why_lost(row, origin)}" for row in rows if row not in items]
    with without_truncation_warning():
        found = model.embed(
            cast("list[Item]", list(items.values())),
            on_error="skip",
            prompt=origin.prompt if "text" in origin.towers else None,
            normalize=origin.normalize,
            truncate_dim=origin.truncate_dim,
        )
    embedded = list(items)
    lost += [f"{embedded[failure.index]}: {failure.reason}" for failure in found.failures]
    kept = [embedded[index] for index in found.kept]
    return _compare(
        model, origin, kept, stored[[row.row for row in kept]], _as_stored(found.vectors, origin, path), lost
    )


def describe_canary(result: CanaryResult) -> str:
    """Return the measurements in one line."""
    return (
        f"{result.rows} rows embedded again, min cosine {format_cosine(result.min_cosine)} "
        f"(at least {format_cosine(result.floor)})"
    )


def _find_items(rows: Sequence[StoredRow], origin: VectorOrigin) -> dict[StoredRow, ItemValue]:
    """Return the item of each row that is found again: the one with the same digest."""
    wanted = {row.digest for row in rows if row.digest}
    found: dict[int, ItemValue] = {}
    for item in chain(_named_items(rows, origin), _listed_items(origin)):
        if len(found) == len(wanted):
            break
        if (digest := digest_item(item)) in wanted:
            found[digest] = item
    return {row: found[row.digest] for row in rows if row.digest in found}


def _named_items(rows: Sequence[StoredRow], origin: VectorOrigin) -> Iterator[ItemValue]:
    """Yield what the names of rows stand for: a name is the path of a file, or a text, if that is short."""
    for row in rows:
        if "text" in origin.towers:
            yield row.name
        if origin.towers != ("text",):
            yield Path(row.name)


def _listed_items(origin: VectorOrigin) -> Iterator[ItemValue]:
    """Yield the texts and images in the lists among the inputs. What is in a file of its own was found by its name."""
    for name in _readable(origin):
        with suppress(UsageError):  # it is gone or damaged; the rows that only it held are lost
            for source in open_inputs([name], towers=origin.towers, column=origin.column):
                if isinstance(source.item, str | bytes):
                    yield source.item


def _readable(origin: VectorOrigin) -> list[str]:
    return [name for name in origin.inputs if name != STDIN]


def _why_lost(row: StoredRow, origin: VectorOrigin) -> str:
    if not row.digest:
        return "its digest was not recorded, because its file could not be read again"
    if "text" not in origin.towers and Path(row.name).is_file():
        return "the file of this name has other content now, or cannot be read"
    names = _readable(origin)
    reasons = [f"it is not found again in {' '.join(names)[:200]}, or has changed"] if names else []
    reasons += ["standard input cannot be read again"] if STDIN in origin.inputs else []
    return "; ".join(reasons)


def _as_stored(vectors: Array, origin: VectorOrigin, path: Path) -> Array:
    """Return new vectors with the rounding of the stored ones."""
    if origin.dtype == "int8" and (ranges := find_ranges(path)) is not None:
        return dequantize(quantize(vectors, "int8", ranges), ranges)
    return quantize(vectors, origin.dtype)


def _compare(
    model: Embedder, origin: VectorOrigin, rows: Sequence[StoredRow], stored: Array, fresh: Array, lost: list[str]
) -> CanaryResult:
    tolerances = [find_tolerance(model, tower) for tower in model.towers]
    if {origin.precision, name_precision(model.provider_options)} != {"float32"}:
        tolerances.append(_REDUCED_TOLERANCE)
    floor = min([_ROUNDED_FLOORS.get(origin.dtype, 1.0), *(each.min_cosine for each in tolerances)])
    max_error = max(each.max_error for each in tolerances)
    cosines = row_cosines(stored, fresh)
    errors: Any = np.abs(stored.astype(np.float64) - fresh).max(axis=1, initial=0)
    equal = cosines >= floor
    if origin.dtype == "float32":
        equal &= errors <= max_error * np.abs(stored).max(initial=0)
    return CanaryResult(
        rows=len(rows),
        min_cosine=float(cosines.min()) if rows else float("nan"),
        floor=floor,
        changed=[
            f"{row}: cosine {format_cosine(cosine)}, largest difference {error:.2g}"
            for row, cosine, error, same in zip(rows, cosines, errors, equal, strict=True)
            if not same
        ],
        lost=lost,
    )
