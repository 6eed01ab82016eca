"""Read the items of requests: texts, token ids, images and meshes."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from runtime.artifact.manifest import TowerName
from runtime.preprocess.image_formats import has_image_suffix
from runtime.server.request_errors import RequestError

MESH_SUFFIXES: Mapping[str, str] = {  # by the media types of meshes
    "model/gltf+json": ".gltf",
    "model/gltf-binary": ".glb",
    "model/obj": ".obj",
    "model/ply": ".ply",
    "model/stl": ".stl",
    "model/vnd.off": ".off",
}
_NO_URL = "the server fetches no URL; send the file itself as data:TYPE;base64,..."
_URL = re.compile(r"data:[^\s,]*,|https?://\S*\Z", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ServerItem:
    """An item as a client sent it.

    Attributes:
        kind: The tower that it needs.
        content: A text, a list of token ids, the bytes of a file, or a ``[n, 3]`` array of points.
        suffix: The extension of a mesh file.
        is_bare: Whether it is a string that the client did not call a text.
    """

    kind: TowerName
    content: Any
    suffix: str = ""
    is_bare: bool = False

    @property
    def size_bytes(self) -> int:
        """A measure of its size."""
        content = self.content
        return content.nbytes if isinstance(content, np.ndarray) else len(content)

    @property
    def may_mean_image(self) -> bool:
        """Whether it is a bare string that may name an image: a data URL, or one word that is a URL or a file."""
        if not self.is_bare:
            return False
        text = self.content.strip()
        return _URL.match(text) is not None or has_image_suffix(text)


def check_count(count: int, limit: int, param: str) -> None:
    """Raise :class:`RequestError` if a request has more items than the server takes."""
    if count > limit:
        raise RequestError(413, f"{param} has {count} items, and the server takes {limit}; send fewer", param=param)


def read_items(value: object, param: str, limit: int) -> list[ServerItem]:
    """Return the items of a field: one item, a list of up to ``limit`` items, token ids, or a list of lists of them.

    Raises:
        RequestError: The field is none of these, or has too many items.
    """
    if isinstance(value, list) and not _is_ids(value):
        if not value:
            raise RequestError(400, f"{param} is an empty list; give at least one item", param=param)
        check_count(len(value), limit, param)
        return [read_item(each, f"{param}[{index}]") for index, each in enumerate(value)]
    return [read_item(value, param)]


def read_file(content: bytes, filename: str, media_type: str) -> ServerItem:
    """Return the item of an uploaded file: a mesh if its name or type says so, otherwise an image."""
    suffix = MESH_SUFFIXES.get(media_type) or PurePath(filename).suffix.lower()
    return _file_item(content, suffix if suffix in MESH_SUFFIXES.values() else "")


def _is_ids(value: Sequence[object]) -> bool:
    return bool(value) and all(type(each) is int for each in value)


def read_item(value: object, param: str) -> ServerItem:
    """Return one item.

    Raises:
        RequestError: The value is none.
    """
    if isinstance(value, str):
        return ServerItem(kind="text", content=value, is_bare=True)
    if isinstance(value, list) and _is_ids(value):
        return ServerItem(kind="text", content=value)
    if isinstance(value, dict) and len(value) == 1:
        (key, content), *_ = value.items()
        if key in _READERS:
            return _READERS[key](content, f"{param}.{key}")
    raise RequestError(
        400,
        f"{param} is no item: give a string, a list of token ids, or an object with one of {', '.join(_READERS)}",
        param=param,
    )


def _read_text(value: object, param: str) -> ServerItem:
    if not isinstance(value, str):
        raise RequestError(400, f"{param} must be a string", param=param)
    return ServerItem(kind="text", content=value)


def _read_image(value: object, param: str) -> ServerItem:
    return _file_item(_read_data_url(value, param)[1], "")


def _read_mesh(value: object, param: str) -> ServerItem:
    media_type, content = _read_data_url(value, param)
    if media_type not in MESH_SUFFIXES:
        raise RequestError(
            400, f"{param} has the type {media_type!r:.80}, known are {', '.join(MESH_SUFFIXES)}", param=param
        )
    return _file_item(content, MESH_SUFFIXES[media_type])


def _read_points(value: Any, param: str) -> ServerItem:
    try:
        points = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        points = np.empty(0)
    # numpy also reads numbers from strings, true and null.
    if points.shape[1:] != (3,) or not set(map(type, chain.from_iterable(value))) <= {int, float}:
        raise RequestError(400, f"{param} must be a list of points, each of three numbers", param=param)
    return ServerItem(kind="mesh", content=points)


_READERS: Mapping[str, Callable[[object, str], ServerItem]] = {
    "text": _read_text,
    "image": _read_image,
    "mesh": _read_mesh,
    "points": _read_points,
}


def _file_item(content: bytes, suffix: str) -> ServerItem:
    return ServerItem(kind="mesh" if suffix else "image", content=content, suffix=suffix)


def _read_data_url(value: object, param: str) -> tuple[str, bytes]:
    """Return the media type and the bytes of a data URL.

    Source: https://www.rfc-editor.org/rfc/rfc2397
    """
    if not isinstance(value, str) or value[:5].lower() != "data:":
        raise RequestError(400, f"{param} is no data URL; {_NO_URL}", param=param)
    head, comma, payload = value.partition(",")
    media_type, *parameters = (part.strip().lower() for part in head[5:].split(";"))
    try:
        if not comma:
            raise ValueError("it has no comma")
        if "base64" in parameters:
            return media_type, decode_base64(payload)
        return media_type, unquote_to_bytes(payload)
    except ValueError as exc:
        raise RequestError(400, f"{param} is a damaged data URL ({exc})", param=param) from exc


def decode_base64(text: str) -> bytes:
    """Decode base64 without a copy of the text, which :func:`base64.b64decode` makes.

    Raises:
        ValueError: It is no base64.
    """
    return binascii.a2b_base64(text, strict_mode=True)
