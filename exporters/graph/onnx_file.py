"""Read and write ONNX files. The weights of a large graph go to a second file."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from exporters.errors import GraphError
from runtime.artifact.external_data import find_external_data
from runtime.errors import one_line

# protobuf refuses messages of 2 GiB: https://protobuf.dev/programming-guides/proto-limits/
EXTERNAL_DATA_THRESHOLD_BYTES = 2**31 - 2**27
_SMALL_BYTES = 256  # axes and shapes stay inside the graph, where shape inference needs them


def load_graph(path: Path) -> ir.Model:
    """Return the graph at ``path`` with all of its weights in memory."""
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    return model


def write_graph(path: Path, model: ir.Model, *, fused: bool = False) -> str | None:
    """Write ``model`` to ``path``. The same graph gives the same bytes.

    Args:
        path: The ONNX file.
        model: The graph. If it is too large for protobuf, its weights go to a second file beside ``path``.
        fused: Whether the graph has operators of ONNX Runtime. The ONNX checker does not know them and is skipped.

    Returns:
        The name of the second file, or ``None``.

    Raises:
        GraphError: The graph is not valid ONNX.
        OSError: The files cannot be written.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    external = second_file_name(path) if size > EXTERNAL_DATA_THRESHOLD_BYTES else None
    if external:
        ir.external_data.unload_from_model(model, path.parent, external, size_threshold_bytes=_SMALL_BYTES)
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    if fused:
        return external
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise GraphError(f"the graph is not valid ONNX: {one_line(exc)}") from exc
    return external


def second_file_name(path: Path) -> str:
    """Return the name of the file beside ``path`` for weights that are not inside the graph."""
    return f"{path.name}.data"


def find_second_file(path: Path) -> str | None:
    """Return the name of the file that has weights of the graph at ``path``; ``None`` if all are inside the graph."""
    return next(iter(find_external_data(path)), None)


def write_temporary_graph(path: Path, model: ir.Model) -> Path:
    """Write ``model`` with its weights beside it, so that protobuf's size limit does not apply; return ``path``."""
    ir.save(model, path, external_data=second_file_name(path))
    return path
