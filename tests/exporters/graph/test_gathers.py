"""Gathers of whole masks and of one token are replaced; others stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from exporters.graph.gathers import replace_gathers

# As torch's exporter writes ``mask[rows[:, None, None, None], columns]`` and ``tokens[rows, positions]``.
_GRAPH = """
<ir_version: 10, opset_import: ["": 18]>
toy (int64[batch, sequence] mask, float[batch, sequence, 3] tokens, int64[batch] positions)
    => (int64[batch, n, m, sequence] whole, float[batch, 3] pooled) {
    zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  last = Constant <value_ints = [-1]> ()
    right = Constant <value_ints = [1, 2, 3]> ()  left = Constant <value_ints = [0, 1, 2]> ()
    b = Shape <end = 1> (mask)  s = Shape <start = 1> (mask)  batch = Squeeze(b)  sequence = Squeeze(s)
    rows = Range(zero, batch, one)  columns = Range(FIRST, sequence, one)
    row_grid = Unsqueeze(rows, right)  column_grid = Unsqueeze(columns, left)
    largest = Max(row_grid, column_grid)  shape = Shape(largest)
    all_rows = Expand(row_grid, shape)  all_columns = Expand(column_grid, shape)
    first = Unsqueeze(all_rows, last)  second = Unsqueeze(all_columns, last)
    cells = Concat <axis = -1> (first, second)
    whole = GatherND(mask, cells)
    row = Unsqueeze(rows, last)  position = Unsqueeze(positions, last)
    places = Concat <axis = -1> (row, position)
    pooled = GatherND(tokens, places)
}
"""
_SHAPES: dict[str, list[int | str]] = {
    "rows": ["batch"],
    "row_grid": ["batch", 1, 1, 1],
    "column_grid": [1, 1, 1, "sequence"],
}


def build(first: str = "zero") -> ir.Model:
    model = ir.from_proto(parser.parse_model(_GRAPH.replace("FIRST", first)))
    for value in [value for node in model.graph for value in node.outputs]:
        if value.name in _SHAPES:
            value.shape = ir.Shape(_SHAPES[value.name])
    return model


def run(model: ir.Model) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {
        "mask": rng.integers(0, 2, (3, 5)),
        "tokens": rng.normal(size=(3, 5, 3)).astype(np.float32),
        "positions": np.array([0, 4, -2]),
    }
    outputs: list[np.ndarray] = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feeds)
    return outputs


def test_the_results_stay_the_same_without_a_gather_by_tuples() -> None:
    model = build()
    before = run(model)
    replace_gathers(model)
    operators = {node.op_type for node in model.graph}
    assert operators.isdisjoint({"GatherND", "Max", "Range"})
    assert operators >= {"Unsqueeze", "GatherElements"}
    for old, new in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("spoiled", ["another start", "another shape"])
def test_other_gathers_stay(spoiled: str) -> None:
    model = build("one" if spoiled == "another start" else "zero")
    if spoiled == "another shape":
        columns = next(value for node in model.graph for value in node.outputs if value.name == "column_grid")
        columns.shape = ir.Shape([1, 1, 1, "half"])
    replace_gathers(model)
    assert [node.op_type for node in model.graph].count("GatherND") == 1, "the mask is not taken whole"
