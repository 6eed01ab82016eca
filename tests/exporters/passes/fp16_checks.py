"""Convert toy graphs to float16, run them, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from exporters.passes.fp16 import Fp16Graph, to_fp16
from runtime.array_types import Array, Feeds
from runtime.artifact.parity import row_cosines
from tests.exporters.toy_graphs import normal

DIM = 8


def run(model: ir.Model | Path, feeds: Feeds) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    content = model.read_bytes() if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    outputs = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))
    return np.asarray(outputs[0])


def run_rounding(model: ir.Model, feeds: Feeds) -> Array:
    """Run each float16 node in float16, as a GPU does; onnxruntime's CPU provider computes them in float32."""
    with np.errstate(all="ignore"):
        outputs: Any = ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feeds))
    return np.asarray(outputs[0])


def convert(graph: Path, batches: Sequence[Feeds]) -> Fp16Graph:
    fp16 = to_fp16(graph, batches)
    onnx.checker.check_model(ir.to_proto(fp16.model), full_check=True)
    return fp16


def fp16_nodes(fp16: Fp16Graph) -> set[str]:
    """Return the names of the nodes with float16 outputs."""
    nodes = [node for node in fp16.model.graph if node.op_type != "Cast"]
    return {node.name or "" for node in nodes if node.outputs[0].dtype == ir.DataType.FLOAT16}


def distance(one: Array, other: Array) -> float:
    """Return one minus the smallest cosine."""
    return float(1 - row_cosines(one, other).min())


X = {"x": normal(3, 5, DIM)}
