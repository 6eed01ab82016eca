"""Plant each defect that the gate exists for in a real graph; the gate must refuse it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from exporters.calibration.dataset import load_calibration_dataset
from exporters.errors import VariantError
from exporters.variants.gate import VariantGate, find_missed_floors
from exporters.variants.options import RULES
from runtime.artifact.parity import neighbour_overlap
from runtime.artifact.reader import read_manifest
from runtime.session.open_graph import open_graph
from runtime.session.session import Session

FLOORS = RULES["int8"].floors
SCALES = np.linspace(0.2, 2, 12, dtype=np.float32)[:, None, None, None]
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def gate(exported: Path, tmp_path: Path) -> VariantGate:
    folder = Path(shutil.copytree(exported, tmp_path / "artifact"))
    return VariantGate(folder, read_manifest(folder), "image", load_calibration_dataset("image", None, 16).held_out)


@pytest.fixture
def candidate(tmp_path: Path) -> Callable[[Change], str]:
    """Write a changed copy of the tower's own graph beside it, and return the file's name."""

    def write(change: Change) -> str:
        model = onnx.load(tmp_path / "artifact" / "image.onnx")
        change(model)
        onnx.save(model, tmp_path / "artifact" / "candidate.onnx")
        return "candidate.onnx"

    return write


def change_weight(model: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the weight of the second convolution, ``[12, 8, 3, 3]``."""
    weight = next(each for each in model.graph.initializer if list(each.dims) == [12, 8, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(weight))), weight.name))


def combine_with_mean(model: onnx.ModelProto, operator: str, *, of: str, axis: int) -> None:
    """Combine every vector with the mean over ``axis`` of the ``plain`` vectors or of their ``squares``."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["plain" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), "axis"))
    model.graph.node.append(helper.make_node("Mul", ["plain", "plain"], ["squares"]))
    model.graph.node.append(helper.make_node("ReduceMean", [of, "axis"], ["mean"]))
    model.graph.node.append(helper.make_node(operator, ["plain", "mean"], [output]))


def add_mean_of_batch(model: onnx.ModelProto) -> None:
    """Add the mean of the batch to every vector; the direction of a single vector does not change."""
    combine_with_mean(model, "Add", of="plain", axis=0)


def scale_by_mean(model: onnx.ModelProto) -> None:
    """Scale every vector by its mean square; its direction does not change."""
    combine_with_mean(model, "Mul", of="squares", axis=1)


def test_neighbours_are_those_of_the_models_similarity(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "artifact"))
    model = onnx.load(folder / "image.onnx")
    scale_by_mean(model)
    onnx.save(model, folder / "candidate.onnx")
    items = load_calibration_dataset("image", None, 16).held_out
    overlaps = []
    for function in ("cosine", "euclidean"):
        manifest = replace(read_manifest(folder), similarity_function=function)
        parity = VariantGate(folder, manifest, "image", items)._measure("candidate.onnx", FLOORS)
        overlaps.append(parity.neighbour_overlap)
    assert overlaps[1] < overlaps[0] == 1


def test_an_equal_graph_passes(gate: VariantGate, candidate: Callable[[Change], str]) -> None:
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
        (add_mean_of_batch, r"^a vector depends on its batch: cosine \S+ to the vector computed alone \("),
    ],
    ids=["a wrong scale", "a transposed weight", "an overflow", "a batch-dependent graph"],
)
def test_a_planted_defect_is_refused(
    gate: VariantGate, candidate: Callable[[Change], str], change: Change, message: str
) -> None:
    with pytest.raises(VariantError, match=message):
        gate.measure(candidate(change), FLOORS)


def test_a_batch_dependent_graph_passes_if_accepted(gate: VariantGate, candidate: Callable[[Change], str]) -> None:
    parity = gate.measure(candidate(add_mean_of_batch), FLOORS, batch_invariant=False)
    assert parity.batch_cosine < FLOORS.min_invariance


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_one_vector_that_depends_on_its_batch_or_threads_is_refused(
    gate: VariantGate, candidate: Callable[[Change], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Planted:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.session, self.sign = open_graph(*arguments, **options), -1 if arguments[3] > 1 else 1

        def run(self, *arguments: Any) -> list[np.ndarray]:
            vectors = self.session.run(*arguments)[0]
            vectors[0] *= self.sign  # of the first run
            vectors[1:2] *= -1  # of a batch
            self.sign = 1
            return [vectors]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

    monkeypatch.setattr("runtime.session.session.open_graph", Planted)
    with pytest.raises(VariantError, match=r"its batch: cosine -1 .*the number of threads: cosine -1 "):
        gate.measure(candidate(lambda model: None), FLOORS)


def test_every_floor_is_checked(gate: VariantGate, candidate: Callable[[Change], str]) -> None:
    good = gate.measure(candidate(lambda model: None), FLOORS)
    assert find_missed_floors(good) == []
    for name, words in (
        ("min_cosine", "min cosine 0.9 is below"),
        ("neighbour_overlap", "90.0% of the nearest neighbours stay the same"),
        ("batch_cosine", "depends on its batch"),
        ("thread_cosine", "depends on the number of threads"),
    ):
        changed: dict[str, Any] = {name: 0.9, "floors": replace(FLOORS, min_overlap=0.95)}
        (fault,) = find_missed_floors(replace(good, **changed))
        assert words in fault
        assert len(find_missed_floors(replace(good, **changed | {name: float("nan")}))) == 1


def test_a_batch_of_long_texts_has_few_of_them(text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sizes = Session.run, []

    def note(self: Session, feeds: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(feeds["input_ids"]))
        return run(self, feeds, *arguments, **options)

    gate = VariantGate(text_artifact, read_manifest(text_artifact), "text", ["a long text"] * 16)
    monkeypatch.setattr(Session, "run", note)
    for tokens, most in ((6000, 16), (10, 3)):
        monkeypatch.setattr("exporters.parity._BATCH_TOKENS", tokens)
        sizes.clear()
        gate.measure("text.onnx", FLOORS)
        assert max(sizes) == most


def test_neighbours_are_counted() -> None:
    reference = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    assert neighbour_overlap(reference, 5 * reference, top=1) == 1
    assert neighbour_overlap(reference, reference[[0, 2, 1, 3]], top=1) == 0
    assert neighbour_overlap(reference, reference[[0, 2, 1, 3]], top=10) == 1, "all others are neighbours"
