"""Custom torch operators that choose points by distance, each with ONNX operators that choose the same points.

A difference in the last bit of a distance can choose another point, which gives another vector. So torch and ONNX
compute distances in the same order of operations, and resolve ties in the same way.

ONNX specifies that ArgMax and TopK take the lowest index of equal values, but CUDA's kernels do not promise it. So the
graphs compare keys in float64, of which no two that matter are equal: the distance times a factor between 1 and
1 + 2**-25 that ranks the points. Two different float32 distances differ by a larger factor. This holds for at most
2**19 points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from onnxscript import BOOL, FLOAT, INT64, graph, opset18, script
from torch import Tensor

if TYPE_CHECKING:
    _Index = INT64
    _Plane = FLOAT
else:  # types of loop variables; onnxscript treats plain INT64 and FLOAT as scalars, and OpenVINO needs a type
    _Index = INT64["batch", 1]
    _Plane = FLOAT["batch", "num_points"]

op: Any = opset18


@torch.library.custom_op("embedding_backbones::farthest_points", mutates_args=())
def farthest_points(points: Tensor, count: int) -> Tensor:
    """Choose points: the first, then repeatedly the point that is farthest from all chosen points.

    Of equally far points, the lowest index is chosen. If all different points are chosen, this is index 0.

    Source: Qi et al. 2017, section 3.2, https://arxiv.org/abs/1706.02413; the start at index 0 is Finetuner's.

    Args:
        points: ``[batch, num_points, 3]`` float32, finite, in any unit; ``num_points`` at least 1.
        count: Number of points to choose, at least 1.

    Returns:
        ``[batch, count]`` int64: indices into ``num_points``, in the order of choice.
    """
    x, y, z = points.unbind(dim=2)
    nearest = torch.full_like(x, torch.inf)
    farthest = torch.zeros_like(x[:, :1], dtype=torch.int64)
    chosen = [farthest]
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, _squared_length(*(plane - plane.gather(1, farthest) for plane in (x, y, z))))
        farthest = nearest.argmax(dim=1, keepdim=True)  # the first of equal values, by torch's documentation
        chosen.append(farthest)
    return torch.cat(chosen, dim=1)


@farthest_points.register_fake
def _(points: Tensor, count: int) -> Tensor:
    return points.new_empty((points.shape[0], count), dtype=torch.int64)


@script()
def _farthest_points(points: FLOAT, count: int) -> INT64:
    # Three planes of [batch, num_points]: a loop over [batch, num_points, 3] takes five times as long.
    x = op.Gather(points, 0, axis=2)
    y = op.Gather(points, 1, axis=2)
    z = op.Gather(points, 2, axis=2)
    first = op.Expand(op.Constant(value_int=0), op.Concat(op.Shape(x, end=1), [1], axis=0))
    unknown = op.Expand(op.Constant(value_float=float("inf")), op.Shape(x))
    # The point at index 0 ranks highest. The offset, below all distances, is for points at distance 0.
    num_points = op.Squeeze(op.Shape(x, start=1))
    rank = op.Cast(op.Range(num_points, 0, -1), to=11)  # float64
    step_of_rank = op.Mul(rank, op.Cast(op.Constant(value_float=2.0**-44), to=11))
    offset = op.Mul(step_of_rank, op.Cast(op.Constant(value_float=2.0**-126), to=11))
    factor = op.Add(step_of_rank, op.Cast(op.Constant(value_float=1.0), to=11))

    # Not a Python loop: onnxscript would order its variables by their hashes, which differ between processes.
    # No return type: onnxscript would use it for the enclosing function.
    @graph()
    def choose(step: INT64, condition: BOOL, farthest: _Index, nearest: _Plane):  # type: ignore[no-untyped-def]
        dx = op.Sub(x, op.GatherElements(x, farthest, axis=1))
        dy = op.Sub(y, op.GatherElements(y, farthest, axis=1))
        dz = op.Sub(z, op.GatherElements(z, farthest, axis=1))
        distances = op.Add(op.Add(op.Mul(dx, dx), op.Mul(dy, dy)), op.Mul(dz, dz))
        nearer = op.Min(nearest, distances)
        next_farthest = op.ArgMax(op.Add(op.Mul(op.Cast(nearer, to=11), factor), offset), axis=1)
        return op.Identity(condition), next_farthest, nearer, op.Identity(farthest)

    _last, _nearest, chosen = op.Loop(op.Constant(value_int=count), None, first, unknown, body=choose)
    indices: INT64 = op.Transpose(op.Squeeze(chosen, [2]), perm=[1, 0])
    return indices


@torch.library.custom_op("embedding_backbones::smallest", mutates_args=())
def smallest(distances: Tensor, count: int) -> Tensor:
    """Find the smallest distances of each row. Of equal distances, those with the lowest index win.

    ``torch.topk`` specifies no order of equal values, and a stable sort of whole rows takes twice as long.

    Args:
        distances: ``[batch, rows, num_points]`` float32, none negative or NaN; ``num_points`` at least ``count``.
        count: Number of distances to find.

    Returns:
        ``[batch, rows, count]`` int64: indices into ``num_points``, the smallest distance first.
    """
    num_points = distances.shape[-1]
    # The bits of non-negative floats, read as integers, have the floats' order. No two keys are equal.
    keys = distances.view(torch.int32).to(torch.int64) * num_points + torch.arange(num_points, device=distances.device)
    return keys.topk(count, largest=False).indices


@smallest.register_fake
def _(distances: Tensor, count: int) -> Tensor:
    return distances.new_empty((*distances.shape[:-1], count), dtype=torch.int64)


@script()
def _smallest(distances: FLOAT, count: int) -> INT64:
    size = op.Reshape(op.Constant(value_int=count), [1])
    num_points = op.Squeeze(op.Shape(distances, start=-1))
    rank = op.Cast(op.Range(0, num_points, 1), to=11)  # float64
    one = op.Cast(op.Constant(value_float=1.0), to=11)
    factor = op.Add(op.Mul(rank, op.Cast(op.Constant(value_float=2.0**-44), to=11)), one)
    # Keys at distance 0 are equal. Which of these points is found has no effect, because they are the same point.
    _, found = op.TopK(op.Mul(op.Cast(distances, to=11), factor), size, largest=0)
    indices: INT64 = found
    return indices


def nearest_neighbors(points: Tensor, centroids: Tensor, count: int) -> Tensor:
    """Find the points that are nearest to each centroid, in order of distance. Of equal distances, the first wins.

    Args:
        points: ``[batch, num_points, 3]`` float32, finite; ``num_points`` at least ``count``.
        centroids: ``[batch, num_centroids, 3]`` float32, finite, in the same unit.
        count: Number of points for each centroid.

    Returns:
        ``[batch, num_centroids, count]`` int64: indices into ``num_points``.
    """
    planes = zip(points.unbind(dim=2), centroids.unbind(dim=2), strict=True)
    distances = _squared_length(*(plane[:, None] - center[:, :, None] for plane, center in planes))
    indices: Tensor = smallest(distances, count)
    return indices


def _squared_length(dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    """Return the sum of squares, in the same order of operations as the graphs."""
    return dx * dx + dy * dy + dz * dz


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.embedding_backbones.farthest_points.default: _farthest_points,
    torch.ops.embedding_backbones.smallest.default: _smallest,
}
"""The ONNX functions that torch's exporter writes for the operators of this module."""
