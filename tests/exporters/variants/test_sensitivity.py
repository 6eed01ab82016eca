from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporters.passes.int8 import StaticQuantizer
from exporters.variants import sensitivity
from exporters.variants.sensitivity import find_sensitive_nodes, most_float_nodes, rank_nodes
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


def test_the_result_for_an_unreachable_floor_has_the_costs(residual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "most_float_nodes", lambda _: 2)
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        found = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1)
    assert len(found.float_nodes) == 2
    assert found.min_cosine < 1.1
    assert {cost.node for cost in found.costs} == set(LAYERS)


@pytest.mark.parametrize(("nodes", "most"), [(3, 16), (84, 16), (357, 71)])
def test_more_nodes_of_a_large_graph_may_stay_in_float32(nodes: int, most: int) -> None:
    assert most_float_nodes(nodes) == most


def test_known_costs_are_not_measured_again(residual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        first = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1)
        monkeypatch.setattr(sensitivity, "rank_nodes", None)
        again = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1, costs=first.costs)
    assert again == first


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only tests move."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(sensitivity, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.mark.parametrize(("seconds", "groups", "alone"), [(1, 50, 100), (10, 15, 14), (100, 2, 0)])
def test_a_slow_graph_is_measured_in_fewer_groups(
    seconds: float, groups: int, alone: int, clock: SimpleNamespace
) -> None:
    sizes: list[int] = []

    def cost(nodes: Collection[str]) -> float:
        clock.now += seconds
        sizes.append(len(nodes))
        return 0.1

    costs = rank_nodes([f"node {number}" for number in range(100)], cost)
    assert (len([size for size in sizes if size > 1]), [each.alone for each in costs].count(True)) == (groups, alone)


def test_the_time_to_open_the_graph_leaves_the_groups_small(
    residual: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance(name: str, seconds: float) -> None:
        function = getattr(sensitivity, name)

        def slow(*arguments: Any) -> Any:
            clock.now += seconds
            return function(*arguments)

        monkeypatch.setattr(sensitivity, name, slow)

    advance("open_session", 1000)
    advance("run_batches", 1)
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        found = find_sensitive_nodes(quantizer, random_batches(2, 2), floor=1.1)
    assert all(cost.alone for cost in found.costs)
