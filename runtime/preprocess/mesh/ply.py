"""Read PLY files: vertices, faces and triangle strips.

Source: G. Turk, The PLY Polygon File Format (http://paulbourke.net/dataformats/ply/).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.memory_limit import ask_for_memory
from runtime.preprocess.mesh.polygons import PolygonMesh, TriangleMesh, cut_polygons
from runtime.preprocess.mesh.text import clean_text, read_numbers, split_rows

_HEAD = re.compile(rb"(?:\xef\xbb\xbf)?(?P<head>ply[ \t]*(?P<end>\r\n|\n|\r).*?(?<=[\r\n])end_header)[ \t]*", re.DOTALL)
_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
    "int64": "i8",
    "uint64": "u8",
}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_STRIP_BYTES = 300  # of a corner of a strip, with its triangle
_INDEX_NAMES = ("vertex_index", "vertex_indices")
_CUT = "it is truncated or damaged: it announces {} rows of '{}', which are not all there; copy it again"


@dataclass(frozen=True, kw_only=True)
class _Property:
    name: str
    dtype: np.dtype[np.generic]
    length: np.dtype[np.generic] | None  # of a list, the type of its length


@dataclass(frozen=True, kw_only=True)
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)


# The values of all rows, and of a list its length in each row.
_Column: TypeAlias = tuple[Array, Array | None]


def read_ply(data: bytes) -> TriangleMesh:
    """Read the vertices, and all faces and triangle strips that name them.

    Raises:
        UnusableItemError: The file is truncated or damaged.
        Exception: The header or a number is damaged.
    """
    match = _HEAD.match(data)
    if not match:
        raise UnusableItemError("it does not begin with the header of a PLY file; export it again")
    order, elements = _read_header(clean_text(match["head"], comments=False).decode("latin-1").split("\n"))
    body = data[match.end() :]
    if order == "=":
        columns = _read_text(clean_text(body, comments=False), elements)
    else:
        head_end = (b"\r",) if match["end"] == b"\r" else (b"\r", b"\n")  # some writers mix the ends of lines
        for each in head_end:
            body = body.removeprefix(each)
        columns = _read_binary(body, elements)
    vertex = columns.get("vertex", {})
    vertices = np.stack([vertex[axis][0] for axis in "xyz"], axis=1) if vertex else np.zeros((0, 3))
    parts = [_faces(columns.get("face", {})), *_strips(columns.get("tristrips", {}))]
    sizes, indices = (np.concatenate(part) for part in zip(*parts, strict=True))
    return cut_polygons(PolygonMesh(vertices=vertices.astype(np.float64), sizes=sizes, indices=indices))


def _read_header(lines: list[str]) -> tuple[str, list[_Element]]:
    order, elements = None, list[_Element]()
    for words in map(str.split, lines[1:]):
        match words:
            case ["format", name, *_]:
                order = _ORDERS[name.lower()]
            case ["element", name, count]:
                elements.append(_Element(name=name, count=int(count)))
            case ["property", "list", length, kind, name]:
                dtypes = [np.dtype(f"{order}{_TYPES[each]}") for each in (length, kind)]
                elements[-1].properties.append(_Property(name=name, dtype=dtypes[1], length=dtypes[0]))
            case ["property", kind, name]:
                dtype = np.dtype(f"{order}{_TYPES[kind]}")
                elements[-1].properties.append(_Property(name=name, dtype=dtype, length=None))
    names = {each.name for each in elements}
    if order is None or len(names) < len(elements) or any(each.count < 0 for each in elements):
        raise UnusableItemError("its header is damaged; export it again")
    return order, elements


def _faces(columns: dict[str, _Column]) -> tuple[Array, Array]:
    lists = {name: column for name, column in columns.items() if column[1] is not None}
    for name in (*_INDEX_NAMES, *(lists if len(lists) == 1 else ())):
        if name in lists:
            values, sizes = lists[name]
            return np.asarray(sizes, np.int64), values.astype(np.int64)
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


def _strips(columns: dict[str, _Column]) -> list[tuple[Array, Array]]:
    """Return the triangles of strips: any three neighbours in a list, between the marks -1 that begin a new strip."""
    sizes, values = _faces(columns)
    if not len(values):
        return []
    ask_for_memory(_STRIP_BYTES * len(values))
    strip = np.repeat(np.arange(len(sizes)), sizes)
    window = np.arange(max(0, len(values) - 2))[:, None] + np.arange(3)
    triangles = values[window[(strip[window[:, 0]] == strip[window[:, 2]])]]
    triangles = triangles[(triangles != -1).all(axis=1)]
    return [(np.full(len(triangles), 3), triangles.ravel())]


def _read_text(text: bytes, elements: list[_Element]) -> dict[str, dict[str, _Column]]:
    rows = split_rows(text, sum(each.count for each in elements if each.properties))
    columns, first = {}, 0
    for element in elements:
        if element.properties:
            columns[element.name] = _read_text_rows(rows[first : first + element.count], element)
            first += element.count
    return columns


def _read_text_rows(rows: list[bytes], element: _Element) -> dict[str, _Column]:
    """Walk through the properties of all rows at once."""
    ends = np.cumsum([len(row.split()) for row in rows], dtype=np.int64)
    values = read_numbers(b" ".join(rows), int(ends[-1]) if rows else 0)
    place = np.concatenate([np.zeros(min(1, len(rows)), np.int64), ends[:-1]])
    columns: dict[str, _Column] = {}
    for each in element.properties:
        if (place >= ends).any():
            raise UnusableItemError(_CUT.format(element.count, element.name))
        head = values[place]
        place = place + 1
        if each.length is None:
            columns[each.name] = (head.astype(each.dtype), None)
            continue
        left = ends - place
        if not ((head >= 0) & (head <= left) & (head == np.floor(head))).all():
            raise UnusableItemError(_CUT.format(element.count, element.name))
        sizes = head.astype(np.int64)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        columns[each.name] = (values[np.repeat(place, sizes) + within], sizes)
        place = place + sizes
    return columns


def _read_binary(body: bytes, elements: list[_Element]) -> dict[str, dict[str, _Column]]:
    columns, start = {}, 0
    for element in elements:
        if element.properties and element.count:
            columns[element.name], start = _read_rows(body, start, element)
    if body[start:].strip(b"\0 \r\n"):
        raise UnusableItemError(f"{len(body) - start} bytes follow the rows that its header announces; export it again")
    return columns


def _read_rows(body: bytes, start: int, element: _Element) -> tuple[dict[str, _Column], int]:
    """Read all rows at once if their lists have the lengths of the first row, else row by row."""
    lengths, _ = _list_lengths(body, start, element)
    dtype = np.dtype(
        [
            (f"{index}{part}", kind)
            for index, (each, length) in enumerate(zip(element.properties, lengths, strict=True))
            for part, kind in (
                [("", each.dtype)] if each.length is None else [("n", each.length), ("", (each.dtype, (length,)))]
            )
        ]
    )
    end = start + dtype.itemsize * element.count
    if end <= len(body):
        table = np.frombuffer(body, dtype, element.count, start)
        counted = [index for index, each in enumerate(element.properties) if each.length]
        if all((table[f"{index}n"] == lengths[index]).all() for index in counted):
            sizes = {index: np.full(element.count, lengths[index]) for index in counted}
            named = enumerate(each.name for each in element.properties)
            return {name: (table[str(index)].ravel(), sizes.get(index)) for index, name in named}, end
    if not any(each.length for each in element.properties):
        raise UnusableItemError(_CUT.format(element.count, element.name))
    return _read_mixed_rows(body, start, element)


def _read_mixed_rows(body: bytes, start: int, element: _Element) -> tuple[dict[str, _Column], int]:
    pieces: list[list[bytes]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    for _ in range(element.count):
        lengths, ends = _list_lengths(body, start, element)
        for index, (each, length, end) in enumerate(zip(element.properties, lengths, ends, strict=True)):
            pieces[index].append(body[end - length * each.dtype.itemsize : end])
            sizes[index].append(length)
        start = ends[-1]
    columns: dict[str, _Column] = {}
    for index, each in enumerate(element.properties):
        values = np.frombuffer(b"".join(pieces[index]), each.dtype)
        columns[each.name] = (values, np.array(sizes[index], np.int64) if each.length else None)
    return columns, start


def _list_lengths(body: bytes, start: int, element: _Element) -> tuple[list[int], list[int]]:
    """Return the number of values of each property in one row, and the end of each property."""
    lengths, ends = [], []
    for each in element.properties:
        length = 1
        if each.length is not None:
            head = body[start : start + each.length.itemsize]
            start += each.length.itemsize
            length = int(np.frombuffer(head, each.length, 1)[0]) if start <= len(body) else -1
        start += length * each.dtype.itemsize
        if length < 0 or start > len(body):
            raise UnusableItemError(_CUT.format(element.count, element.name))
        lengths.append(length)
        ends.append(start)
    return lengths, ends
