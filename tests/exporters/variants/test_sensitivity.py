from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from exporters.passes.int8 import StaticQuantizer
from exporters.variants.sensitivity import find_sensitive_nodes, most_float_nodes
from runtime.artifact.parity import row_cosines
from tests.exporters.toy_graphs import LAYERS, embed_batches, random_batches, residual_graph


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    return residual_graph(tmp_path / "residual.onnx")


def test_only_the_layer_with_outliers_stays_in_float32(residual: Path, tmp_path: Path) -> None:
    held_out = random_batches(6, 2)
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        assert set(quantizer.nodes) == set(LAYERS)
        found = find_sensitive_nodes(quantizer, held_out, floor=0.998)
        quantizer.write(tmp_path / "q.onnx", found.float_nodes)
    assert found.float_nodes == ("second",), found
    assert found.costs[0].node == "second"
    assert found.costs[0].cost > 3 * found.costs[1].cost
    real = row_cosines(embed_batches(tmp_path / "q.onnx", held_out), embed_batches(residual, held_out)).min()
    assert found.min_cosine == pytest.approx(real, abs=1e-6)
    assert real >= 0.998


def test_the_result_for_an_unreachable_floor_has_the_costs(residual: Path) -> None:
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        found = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1, max_float_nodes=2)
    assert len(found.float_nodes) == 2
    assert found.min_cosine < 1.1
    assert {cost.node for cost in found.costs} == set(LAYERS)


@pytest.mark.parametrize(("nodes", "most"), [(3, 16), (84, 16), (357, 71)])
def test_more_nodes_of_a_large_graph_may_stay_in_float32(nodes: int, most: int) -> None:
    assert most_float_nodes(nodes) == most


def test_known_costs_are_not_measured_again(residual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        first = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1, max_float_nodes=2)
        monkeypatch.setattr("exporters.variants.sensitivity.rank_nodes", None)
        again = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1, max_float_nodes=2, costs=first.costs)
    assert again == first


def test_many_nodes_are_measured_in_groups(residual: Path) -> None:
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        search = partial(find_sensitive_nodes, quantizer, random_batches(2, 2), floor=1.1, max_float_nodes=1)
        hasty, patient = search(budget_s=0, max_groups=2), search(max_groups=2)
    assert [cost.alone for cost in hasty.costs].count(True) == 1
    assert all(cost.alone for cost in patient.costs)
