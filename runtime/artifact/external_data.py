"""Find the files that an ONNX graph names as its external data, without the onnx package.

ONNX Runtime opens such a file without asking. So a graph may name only the file that the manifest lists and hashes.

Source of the field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime.artifact.protobuf import map_file, read_fields
from runtime.errors import IntegrityError

# The messages in which a tensor can be: field numbers of each message, with the message that a field holds.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},  # of a name in field 1 and a value in field 2
}
_MAX_DEPTH = 64


def check_external_data(folder: Path, graph: str, listed: str | None) -> None:
    """Check that a graph names no other file than the one that the manifest lists for it.

    Args:
        folder: The artifact.
        graph: File name of the graph.
        listed: File name of its external data; ``None`` if it has none.

    Raises:
        IntegrityError: It names another file, the listed one is a link, or the graph cannot be read.
    """
    try:
        named = find_external_data(folder / graph)
    except OSError as exc:
        raise IntegrityError(f"{folder / graph} cannot be read ({exc.strerror}); export the artifact again") from exc
    others = sorted(named - {listed})
    if others:
        raise IntegrityError(
            f"{folder / graph} takes weights from {others[0]!r:.80}, which its manifest does not list; export the "
            "artifact again"
        )
    if listed is not None and (folder / listed).is_symlink():
        raise IntegrityError(
            f"{folder / listed} is a link, and onnxruntime opens external data only inside its folder; copy the "
            "artifact with the files that its links point to"
        )


def find_external_data(path: Path) -> set[str]:
    """Return the names of all files in which tensors of the ONNX file ``path`` are stored.

    Raises:
        IntegrityError: The file is empty, or not in the format of protobuf.
        OSError: The file cannot be read.
    """
    try:
        with map_file(path) as content:
            return set(_find_locations(content, 0, len(content), "model", 0))
    except ValueError as exc:
        raise IntegrityError(f"{path} is not an ONNX graph ({exc}); export the artifact again") from exc


def _find_locations(content: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Yield the locations of external data in the message from ``start`` to ``end``."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deep")
    if message == "entry":
        fields = {number: content[first:last].decode() for number, first, last in read_fields(content, start, end)}
        if fields.get(1) == "location":
            yield fields.get(2, "")
        return
    for number, first, last in read_fields(content, start, end):
        if inner := _FIELDS[message].get(number):
            yield from _find_locations(content, first, last, inner, depth + 1)
