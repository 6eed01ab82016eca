"""Test graphs with weights in 8 bits: their size, their accuracy, and that a row does not depend on its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from exporters.graph.onnx_file import write_graph
from exporters.passes.compact import _round_blocks, to_compact
from runtime.array_types import Array
from runtime.artifact.parity import row_cosines
from tests.exporters.toy_graphs import normal, write_text_graph

GRAPH = """toy (int64[batch, tokens] ids) => (float[batch, tokens, 40] embedding) {
    first = Gather(table, ids)
    again = Gather(table, ids)
    words = Add(first, again)
    least = Gather(small, ids)
    column = Gather <axis = 1> (across, three)
    few = Add(least, column)
    start = Concat <axis = -1> (words, few)
    wide = MatMul(start, widen)
    hidden = Relu(wide)
    embedding = MatMul(hidden, shrink)
}"""
IDS = np.random.default_rng(0).integers(0, 600, (9, 7))


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """Write a graph, and the same with weights in 8 bits; the widths are no multiples of a block."""
    table, small, widen, shrink = normal(2400, 48), normal(600, 2), normal(50, 80), normal(80, 40)
    table[3] = 0
    path = tmp_path / "before.onnx"
    before = write_text_graph(
        path, GRAPH, table=table, small=small, across=normal(2, 9000), three=np.int64(3), widen=widen, shrink=shrink
    )
    write_graph(tmp_path / "after.onnx", to_compact(before, [{"ids": IDS}]), fused=True)
    return before, tmp_path / "after.onnx"


def run(graph: Path, ids: Array) -> Array:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": ids})[0]).reshape(len(ids), -1)


def test_a_graph_with_weights_in_8_bits_is_small_and_close(graphs: tuple[Path, Path]) -> None:
    before, after = graphs
    types = [node.op_type for node in onnx.load(after).graph.node]
    assert (types.count("MatMulNBits"), types.count("Gather"), types.count("MatMul")) == (2, 6, 0)
    assert after.stat().st_size < 0.4 * before.stat().st_size
    ids = np.random.default_rng(1).integers(0, 600, (40, 5))
    assert row_cosines(run(before, ids), run(after, ids)).min() > 0.999
    zeros = np.full((1, 4), 3)
    assert row_cosines(run(before, zeros), run(after, zeros)).min() > 0.999


def test_a_row_is_the_same_to_the_bit_in_every_batch(graphs: tuple[Path, Path]) -> None:
    alone = np.concatenate([run(graphs[1], IDS[index : index + 1]) for index in range(len(IDS))])
    for size in range(2, len(IDS) + 1):
        np.testing.assert_array_equal(run(graphs[1], IDS[:size]), alone[:size])


def test_rounding_keeps_half_a_step_of_each_block() -> None:
    weights = normal(50, 3)
    weights[32:, 1] = 0
    integers, scales = _round_blocks(weights)
    assert (integers.shape, integers.dtype, scales.shape) == ((3, 2, 32), np.uint8, (3, 2))
    restored = ((integers.astype(np.float32) - 128) * scales[..., None]).reshape(3, 64)[:, :50].T
    steps = np.repeat(scales, 32, axis=1)[:, :50].T
    assert np.all(np.abs(restored - weights) <= 0.501 * steps)
