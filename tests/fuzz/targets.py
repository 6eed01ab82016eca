"""Run each reader on any input, and check that it returns a valid result or raises an error of our own.

A target is a function that returns nothing. It raises if the reader raises another exception, warns, or returns an
invalid result. The hypothesis tests and the atheris harness share the targets.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import (
    SEAL,
    Cleaning,
    ImagePreprocessing,
    Manifest,
    PointCloudPreprocessing,
    TextPreprocessing,
    seal,
)
from runtime.artifact.reader import read_manifest
from runtime.errors import ArtifactError, UsageError
from runtime.preprocess.image import ImagePreprocessor
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.formats import FORMATS
from runtime.preprocess.point_cloud import PointCloudPreprocessor
from runtime.preprocess.text import TextPreprocessor
from tests.fuzz.seeds import write_tokenizers

Target = Callable[[bytes], None]

SIDE = 32
NUM_POINTS = 64
MAX_LENGTH = 16
_MAX_MESSAGE = 2000
_DTYPES = ("u1", "f4", "f8", "f2", ">f4", "i8", "u8", "i2", "?", "c8", "S3", "U2", "M8[s]", "g")


class Targets:
    """The readers as functions of one item; ``by_name`` has the functions of bytes."""

    def __init__(self, scratch: Path) -> None:
        """Make the readers. Their input files are written to ``scratch``."""
        self._scratch = scratch
        self._images = [ImagePreprocessor(recipe) for recipe in _image_recipes()]
        self._clouds = PointCloudPreprocessor(PointCloudPreprocessing(num_points=NUM_POINTS, min_points=4, seed=0))
        self._texts = []
        for name, vocabulary_size in write_tokenizers(scratch).items():
            for cleaning in get_args(Cleaning):
                recipe = TextPreprocessing(cleaning=cleaning, tokenizer=name, max_length=MAX_LENGTH, pad_token_id=0)
                self._texts.append((TextPreprocessor(recipe, scratch), vocabulary_size))
        self.by_name: dict[str, Target] = {
            "manifest": self.manifest,
            "sealed": self.sealed,
            "image": self.image,
            "text": lambda data: self.text(data.decode("utf-8", "surrogateescape")),
            "array": self.array,
        } | {suffix[1:]: self._mesh_target(suffix) for suffix in FORMATS}

    def manifest(self, data: bytes) -> None:
        """Read ``data`` as manifest.json."""
        (self._scratch / "manifest.json").write_bytes(data)
        with _only(ArtifactError):
            read = read_manifest(self._scratch)
            check_round_trip(read)

    def sealed(self, data: bytes) -> None:
        """Read ``data`` as the JSON of a manifest, with a correct hash added."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return
        self.document(document)

    def document(self, document: object) -> None:
        """Read ``document`` as a manifest, with a correct hash added."""
        try:
            if isinstance(document, dict):
                document = {key: value for key, value in document.items() if key != SEAL}
                document |= {SEAL: seal(document)}
            data = json.dumps(document).encode()
        except RecursionError:
            return
        self.manifest(data)

    def image(self, item: Any) -> None:
        """Prepare any object as an image."""
        for preprocessor in self._images:
            with _only(UnusableItemError):
                check_pixels(preprocessor.prepare(item))

    def text(self, item: Any) -> None:
        """Prepare any object as a text."""
        for preprocessor, vocabulary_size in self._texts:
            with _only(UnusableItemError):
                ids = preprocessor.prepare(item).ids
                _check(0 < len(ids) <= MAX_LENGTH, f"{len(ids)} ids")
                _check(all(0 <= each < vocabulary_size for each in ids), f"ids {ids} of {vocabulary_size}")
            if isinstance(item, str):
                with _only(UsageError):
                    row = preprocessor.prepare("a", item)
                    _check(row.prompt_length <= len(row.ids) == row.width, f"a prompt of {row.prompt_length} tokens")

    def mesh(self, item: Any) -> None:
        """Prepare any object as a mesh or a point cloud."""
        with _only(UnusableItemError):
            check_points(self._clouds.prepare(item), len(item) if isinstance(item, np.ndarray) else NUM_POINTS)

    def array(self, data: bytes) -> None:
        """Read ``data`` as an array, and prepare it: one byte for the dtype, one for the width, then the values."""
        if len(data) < 2:
            return
        dtype, width = np.dtype(_DTYPES[data[0] % len(_DTYPES)]), data[1] % 5
        values = np.frombuffer(data[2 : len(data) - (len(data) - 2) % dtype.itemsize], dtype)
        array = values[: len(values) // (width * 3 or 1) * (width * 3 or 1)].reshape((-1, width, 3) if width else -1)
        for item in (array, array.reshape(-1, 3) if width else array):
            self.image(item)
            self.mesh(item)

    def mesh_file(self, suffix: str, data: bytes) -> None:
        """Prepare a mesh file of the format ``suffix`` with the content ``data``."""
        path = self._scratch / f"mesh{suffix}"
        path.write_bytes(data)
        self.mesh(path)

    def _mesh_target(self, suffix: str) -> Target:
        return lambda data: self.mesh_file(suffix, data)


def check_round_trip(manifest: Manifest) -> None:
    """Check that a manifest is the same after it is written and read again."""
    document = json.loads(manifest.to_json())
    stated = document.pop(SEAL)
    _check(stated == seal(document), "a manifest writes a wrong hash")
    _check(decode(Manifest, document, "manifest") == manifest, "a manifest is not read back as it was written")


def check_pixels(pixels: np.ndarray[Any, Any]) -> None:
    """Check that the pixels have the dtype and shape for a graph of :data:`SIDE`."""
    kind = (pixels.dtype, pixels.shape)
    _check(kind in ((np.uint8, (SIDE, SIDE, 3)), (np.float32, (3, SIDE, SIDE))), f"{kind}")
    _check(bool(np.isfinite(pixels).all()), "pixels that are not finite")


def check_points(points: np.ndarray[Any, Any], count: int) -> None:
    """Check that there are ``count`` points, centred on the origin, with the farthest at distance 1."""
    _check((points.dtype, points.shape) == (np.float32, (count, 3)), f"{points.dtype} {points.shape}")
    _check(bool(np.isfinite(points).all()), "points that are not finite")
    radius = np.linalg.norm(points.astype(np.float64), axis=1).max()
    _check(abs(radius - 1) < 1e-5, f"the farthest point is at {radius}")
    _check(bool((np.abs(points.mean(axis=0, dtype=np.float64)) < 1e-5).all()), "the mean is not the origin")


def _image_recipes() -> list[ImagePreprocessing]:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    sides: dict[str, Any] = {"resize_size": SIDE + 4, "crop_size": SIDE}
    return [
        ImagePreprocessing(**sides, interpolation="bilinear", mean=mean, std=std, arithmetic="graph", alpha="white"),
        ImagePreprocessing(**sides, interpolation="bicubic", mean=mean, std=std, arithmetic="caller", resize="squash"),
    ]


@contextmanager
def _only(promised: type[Exception]) -> Iterator[None]:
    """Suppress the exception ``promised`` if its message is one line, and fail on any warning."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            yield
        except promised as exc:
            _check_message(exc)
    _check(not warned, f"warned: {[str(each.message) for each in warned]}")


def _check_message(exc: Exception) -> None:
    message = str(exc)
    _check(bool(message) and len(message.splitlines()) == 1, f"a message of several lines: {message!r}")
    _check(len(message) < _MAX_MESSAGE, f"a message of {len(message)} characters: {message[:200]}")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
