"""Store the weights that a tower's own graph and its variants have in common once, in a file that all of them name."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import set_external_data, uses_external_data

from exporters.graph.onnx_file import EXTERNAL_DATA_THRESHOLD_BYTES, find_second_file, second_file_name

MIN_SHARED_BYTES = 2**20  # less is not worth a second file, because a single one is easier to copy
_MIN_TENSOR_BYTES = 2**14  # smaller ones stay inside the graphs: most are biases, and shapes are needed there
_ALIGNMENT = 4096  # so that the file can be mapped: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md

Place = tuple[int, int]  # offset and length in the file


class SharedWeights:
    """The weights of a tower's own graph, in a file beside it that variants can name too.

    ONNX Runtime maps such a file into memory, so processes on one machine share its pages.
    """

    def __init__(self, graph: Path) -> None:
        """Write the weights of ``graph`` to the file, unless they are in it already.

        The graph itself stays unchanged until :meth:`finish`. Without large weights there is no file.

        Raises:
            OSError: The file cannot be written.
        """
        self._graph, self.path = graph, graph.with_name(second_file_name(graph))
        model = onnx.load(graph, load_external_data=False)
        self._external = self.path.exists()
        large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= _MIN_TENSOR_BYTES]
        if self._external:
            self._places = dict(_stored_tensors(model, self.path))
        elif _size(large) >= MIN_SHARED_BYTES:
            self._places = _write_tensors(large, self.path)
        else:
            self._places = {}

    def share(self, graph: Path) -> str | None:
        """Let ``graph`` take the weights that it has in common with the tower's own graph from the file.

        Returns:
            The name of the file; ``None`` if the two have less in common than :data:`MIN_SHARED_BYTES`.
        """
        own = find_second_file(graph)
        model = onnx.load(graph)
        if (
            self._point_to_file(model) < MIN_SHARED_BYTES
            or _size(model.graph.initializer) > EXTERNAL_DATA_THRESHOLD_BYTES
        ):
            return None
        _replace_graph(graph, model)
        if own is not None:
            graph.with_name(own).unlink()
        return self.path.name

    def finish(self, *, used: bool) -> str | None:
        """Let the tower's own graph name the file if a variant does (``used``); else delete the file if it is new.

        Returns:
            The name of the file of the tower's own graph, or ``None``.
        """
        if self._external:
            return self.path.name
        if not used:
            self.path.unlink(missing_ok=True)
            return None
        model = onnx.load(self._graph, load_external_data=False)
        self._point_to_file(model)
        _replace_graph(self._graph, model)
        return self.path.name

    def _point_to_file(self, model: onnx.ModelProto) -> int:
        """Replace the content of tensors by its place in the file, and return the number of bytes."""
        shared = 0
        for tensor in model.graph.initializer:
            place = self._places.get(_digest(tensor.raw_data)) if len(tensor.raw_data) >= _MIN_TENSOR_BYTES else None
            if place is not None:
                offset, length = place
                set_external_data(tensor, self.path.name, offset=offset, length=length)
                tensor.ClearField("raw_data")
                shared += length
        return shared


def _write_tensors(tensors: list[TensorProto], path: Path) -> dict[bytes, Place]:
    """Write each content once, and return its place by its hash."""
    places: dict[bytes, Place] = {}
    with path.open("wb") as file:
        for tensor in tensors:
            content = tensor.raw_data
            digest = _digest(content)
            if digest not in places:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                places[digest] = (file.tell(), len(content))
                file.write(content)
    return places


def _stored_tensors(model: onnx.ModelProto, path: Path) -> Iterator[tuple[bytes, Place]]:
    """Yield the hash and place of each tensor in the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for tensor in model.graph.initializer:
            if uses_external_data(tensor):
                entries = {entry.key: entry.value for entry in tensor.external_data}
                offset, length = int(entries.get("offset", 0)), int(entries["length"])
                yield _digest(content[offset : offset + length]), (offset, length)


def _size(tensors: Iterable[TensorProto]) -> int:
    return sum(len(tensor.raw_data) for tensor in tensors)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _replace_graph(path: Path, model: onnx.ModelProto) -> None:
    """Write a graph to a new file, because ``path`` may be a hard link to the file of another folder."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(model.SerializeToString(deterministic=True))
    new.replace(path)
