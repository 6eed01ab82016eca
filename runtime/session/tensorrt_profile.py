"""The range of input shapes that TensorRT compiles an engine for."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.artifact.manifest import TensorSpec, Tower
from runtime.session.providers import PROVIDERS

_COMMON_LENGTH = 128  # tokens; TensorRT tunes its kernels for this length


def profile_shapes(tower: Tower) -> Mapping[str, str]:
    """Return the provider options for the smallest, the usual and the largest batch of texts or images.

    Without them, TensorRT compiles anew whenever a batch exceeds all before, which takes minutes. A point cloud keeps
    its number of points, so meshes have no range.

    Source: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html#explicit-shape-range
    """
    recipe = tower.preprocessing
    if recipe.kind == "mesh":
        return {}
    items = PROVIDERS["tensorrt"].max_items or 1
    lengths = (1, 1, 1)
    if recipe.kind == "text":
        longest, multiple = recipe.max_length, PROVIDERS["tensorrt"].sequence_multiple
        lengths = min(multiple, longest), min(_COMMON_LENGTH, longest), longest
    sizes = {"min": (1, lengths[0]), "opt": (items, lengths[1]), "max": (items, lengths[2])}
    return {
        f"trt_profile_{name}_shapes": ",".join(f"{spec.name}:{_shape(spec, batch, length)}" for spec in tower.inputs)
        for name, (batch, length) in sizes.items()
    }


def _shape(spec: TensorSpec, batch: int, length: int) -> str:
    known = {"batch": batch, "sequence": length}
    return "x".join(str(known.get(str(size), size)) for size in spec.shape)
