"""The gate for variants has to shut: every defect it exists for is planted here in a real graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from exporters.calibration.dataset import load_corpus
from exporters.errors import VariantError
from exporters.variants.build import check_loads
from exporters.variants.gate import Gate, find_faults
from exporters.variants.options import DEFAULT_FLOORS
from runtime.artifact.parity import neighbour_overlap
from runtime.artifact.reader import read_manifest

FLOORS = DEFAULT_FLOORS["int8"]
SCALES = np.linspace(0.2, 2, 12, dtype=np.float32)[:, None, None, None]
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def gate(exported: Path, tmp_path: Path) -> Gate:
    folder = Path(shutil.copytree(exported, tmp_path / "artifact"))
    return Gate(folder, read_manifest(folder), "image", load_corpus("image", None, 16).held_out)


@pytest.fixture
def candidate(tmp_path: Path) -> Callable[[Change], str]:
    """Writes the tower's own graph, changed, beside it, and returns the file's name."""

    def write(change: Change) -> str:
        model = onnx.load(tmp_path / "artifact" / "image.onnx")
        change(model)
        onnx.save(model, tmp_path / "artifact" / "candidate.onnx")
        return "candidate.onnx"

    return write


def change_weight(model: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the weight of the second convolution, ``[12, 8, 3, 3]``."""
    weight = next(each for each in model.graph.initializer if list(each.dims) == [12, 8, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(weight))), weight.name))


def add_mean_of_batch(model: onnx.ModelProto) -> None:
    """Adds to every vector what depends on the others, and nothing to the direction of one that is alone."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["alone" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
    model.graph.node.append(helper.make_node("ReduceMean", ["alone", "batch_axis"], ["mean"]))
    model.graph.node.append(helper.make_node("Add", ["alone", "mean"], [output]))


def test_an_equal_graph_passes(gate: Gate, candidate: Callable[[Change], str]) -> None:
    parity = gate.measure(candidate(lambda model: None), FLOORS)
    assert parity.items == 16
    assert parity.floors == FLOORS
    assert min(parity.min_cosine, parity.p1_cosine, parity.mean_cosine, parity.batch_cosine) > 1 - 1e-9
    assert (parity.neighbour_overlap, parity.max_abs_error) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: change_weight(model, lambda weight: weight * SCALES), "min cosine .* is below 0.995"),
        (
            lambda model: change_weight(model, lambda weight: weight.reshape(8, 12, 3, 3).swapaxes(0, 1)),
            "min cosine .* is below 0.995",
        ),
        (lambda model: change_weight(model, lambda weight: 3e38 * np.sign(weight)), "NaN or infinity"),
        (add_mean_of_batch, r"^a vector depends on its batch: \S+ to the one made alone \("),
    ],
    ids=["a wrong scale", "a transposed weight", "an overflow", "a batch-dependent graph"],
)
def test_a_planted_fault_is_refused(
    gate: Gate, candidate: Callable[[Change], str], change: Change, message: str
) -> None:
    with pytest.raises(VariantError, match=message):
        gate.measure(candidate(change), FLOORS)


def test_a_batch_dependent_graph_passes_where_that_is_accepted(gate: Gate, candidate: Callable[[Change], str]) -> None:
    parity = gate.measure(candidate(add_mean_of_batch), FLOORS, batch_invariant=False)
    assert parity.batch_cosine < FLOORS.min_invariance


def test_every_floor_has_its_fault(gate: Gate, candidate: Callable[[Change], str]) -> None:
    good = gate.measure(candidate(lambda model: None), FLOORS)
    assert find_faults(good) == []
    for name, words in (
        ("min_cosine", "min cosine 0.9 is below"),
        ("neighbour_overlap", "90.0% of nearest neighbours stay"),
        ("batch_cosine", "depends on its batch"),
        ("thread_cosine", "depends on the number of threads"),
    ):
        changed: dict[str, Any] = {name: 0.9, "floors": replace(FLOORS, min_overlap=0.95)}
        (fault,) = find_faults(replace(good, **changed))
        assert words in fault
        assert len(find_faults(replace(good, **changed | {name: float("nan")}))) == 1


def test_neighbours_are_counted() -> None:
    reference = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    assert neighbour_overlap(reference, 5 * reference, top=1) == 1
    assert neighbour_overlap(reference, reference[[0, 2, 1, 3]], top=1) == 0
    assert neighbour_overlap(reference, reference[[0, 2, 1, 3]], top=10) == 1, "all others are neighbours"


def test_a_graph_that_crashes_its_loader_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(VariantError, match=r"onnxruntime cannot load it .*take another --level"):
        check_loads(tmp_path / "broken.onnx")
