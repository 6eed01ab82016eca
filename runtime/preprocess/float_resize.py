"""Resize images without rounding to 8 bits, as torch's ``interpolate`` does with floats.

Source: ``aten/src/ATen/native/cpu/UpSampleKernel.cpp`` of https://github.com/pytorch/pytorch, for ``bilinear`` and
``bicubic`` with and without ``antialias``, and ``align_corners=False``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from runtime.array_types import Array, Float32Array, UInt8Array

_CUBIC, _CUBIC_ANTIALIAS = -0.75, -0.5  # torch's coefficients; the second is Pillow's, too
_HALF = np.float32(0.5)  # positions are computed in float32, as in torch: float64 shifts a weight by up to 1e-4
_ALL = slice(None)


def resize_floats(
    pixels: UInt8Array,
    height: int,
    width: int,
    kind: str,
    *,
    antialias: bool,
    rows: slice = _ALL,
    columns: slice = _ALL,
) -> Float32Array:
    """Return ``[height, width, 3]`` float32 pixels. Each output pixel is a weighted sum of some input pixels.

    Args:
        pixels: ``[rows, columns, 3]`` uint8.
        height: Number of rows of the result.
        width: Number of columns of the result.
        kind: ``bilinear`` or ``bicubic``.
        antialias: Whether the filter widens with the downscaling factor.
        rows: The rows of the result to compute; by default all.
        columns: The columns of the result to compute; by default all.
    """
    low = _resize_rows(pixels, height, rows, kind, antialias=antialias)
    small = _resize_rows(np.swapaxes(low, 0, 1), width, columns, kind, antialias=antialias)
    return np.ascontiguousarray(np.swapaxes(small, 0, 1), dtype=np.float32)


def _resize_rows(pixels: Array, size: int, kept: slice, kind: str, *, antialias: bool) -> Array:
    if len(pixels) == size:
        return pixels[kept]
    outputs = np.arange(*kept.indices(size), dtype=np.float32)
    sources, weights = (_wide_taps if antialias else _narrow_taps)(len(pixels), size, outputs, kind)
    flat = pixels.reshape(len(pixels), -1)
    resized = np.empty((len(sources), flat.shape[1]), np.float32)
    for source, weight, row in zip(sources, weights, resized, strict=True):
        # A matrix product would start threads of BLAS beside those of the session.
        np.einsum("i,ij->j", weight, flat[source].astype(np.float32), out=row)
    return resized.reshape(-1, *pixels.shape[1:])


def _wide_taps(length: int, size: int, outputs: Float32Array, kind: str) -> tuple[Array, Float32Array]:
    """Return the input pixels of ``outputs`` and their weights, ``[outputs, taps]``, for a filter that widens."""
    scale = np.float32(length) / np.float32(size)
    stretch = max(scale, np.float32(1))
    support = np.float32(_HALF_WIDTHS[kind]) * stretch
    centres = scale * (outputs + _HALF)
    first = np.maximum((centres - support + _HALF).astype(np.int64), 0)
    last = np.minimum((centres + support + _HALF).astype(np.int64), length)
    taps = first[:, None] + np.arange((last - first).max())
    distance = (taps.astype(np.float32) - centres[:, None] + _HALF) * (np.float32(1) / stretch)
    weights = _FILTERS[kind](distance) * (taps < last[:, None])
    return np.minimum(taps, length - 1), weights / weights.sum(axis=1, keepdims=True)


def _narrow_taps(length: int, size: int, outputs: Float32Array, kind: str) -> tuple[Array, Float32Array]:
    """Return the same as :func:`_wide_taps`, for a filter of two or four pixels."""
    scale = np.float32(length) / np.float32(size)
    position = (scale.astype(np.float64) * (outputs + 0.5) - 0.5).astype(np.float32)
    if kind == "bilinear":
        position = np.maximum(position, np.float32(0))
    base = np.floor(position).astype(np.int64)
    taps = base[:, None] + (np.arange(2) if kind == "bilinear" else np.arange(-1, 3))
    distance = taps.astype(np.float32) - position[:, None]
    weights = _triangle(distance) if kind == "bilinear" else _cubic(distance, _CUBIC)
    return np.clip(taps, 0, length - 1), weights


def _triangle(x: Float32Array) -> Float32Array:
    weights: Float32Array = np.maximum(1 - np.abs(x), 0)
    return weights


def _cubic(x: Float32Array, a: float = _CUBIC_ANTIALIAS) -> Float32Array:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights: Float32Array = np.where(x < 1, near, np.where(x < 2, far, np.float32(0)))
    return weights


_FILTERS: Mapping[str, Callable[[Float32Array], Float32Array]] = {"bilinear": _triangle, "bicubic": _cubic}
_HALF_WIDTHS = {"bilinear": 1.0, "bicubic": 2.0}
