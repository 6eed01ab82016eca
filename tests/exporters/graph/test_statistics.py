from __future__ import annotations

from pathlib import Path

import onnx

from exporters.graph.statistics import graph_statistics


def test_statistics_count_nodes_and_bytes(exported_text: Path) -> None:
    graph = exported_text / "text.onnx"
    statistics = graph_statistics(graph, None)
    assert (statistics.nodes, statistics.contrib_operators) == (len(onnx.load(graph).graph.node), {})
    assert statistics.size_bytes == graph.stat().st_size
