"""Contenders take turns, are judged by the same items, and what fails costs itself alone. Nothing here is timed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import rounds as measure
from benchmarks.measure import run
from benchmarks.measure.parity import judge
from benchmarks.measure.plan import Choices, make_plan
from benchmarks.measure.rounds import Effort, Group, Patience, embed_judged, measure_group
from benchmarks.measure.run import Settings, find_left, make_reference, measure_plan
from benchmarks.measure.worker import peak_bytes, read_arrays, take_turn, write_arrays
from benchmarks.measure.worker_client import Task, Worker
from benchmarks.measure.workload import Material, load_items, pick_typical
from benchmarks.results.schema import Case, Results
from benchmarks.results.statistics import summarize
from benchmarks.results.steal_time import CpuTime, read_cpu_time
from runtime.errors import EmbeddingBackbonesError, UsageError
from tests.benchmarks.samples import RESULTS

EFFORT = Effort(threads=1, min_rounds=3, seconds=0.01, patience=0, confidence=0.95, precision=0.05)


def plan_for(folder: Path, weights: Path | None, **choices: object) -> Choices:
    named = {} if weights is None else {"toy": str(weights)}
    return replace(Choices(batch_sizes=(2,), tokens=(8,), weights=named), **choices)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(toy: Path, toy_weights: Path) -> Results:
    """One real run, of the runtime and torch, at both stages."""
    choices = plan_for(toy, toy_weights, contenders=("runtime", "torch:eager"))
    plan = make_plan([toy], choices)
    empty = replace(RESULTS, cases=(), skipped=(), artifacts=plan.artifacts, complete=False)
    return measure_plan(plan.groups, empty, Settings(effort=EFFORT, items={}), lambda _: None, lambda _: None)


def find(results: Results, contender: str, stage: str) -> Case:
    return next(case for case in results.cases if (case.contender, case.stage) == (contender, stage))


def test_all_contenders_were_measured_in_the_same_rounds(results: Results) -> None:
    assert [(case.contender, case.variant, case.stage) for case in results.cases] == [
        ("runtime", "fp32", "graph"),
        ("torch", "eager", "graph"),
        ("runtime", "fp32", "end_to_end"),
        ("torch", "eager", "end_to_end"),
    ]
    for case in results.cases:
        assert len(case.rounds) == len(case.yardstick) == len(case.stolen) >= 3
        assert all(second > 0 for turn in case.rounds for second in turn)
        assert case.start_s > case.first_s > 0
        assert case.peak_bytes > 30 * 2**20
    assert results.complete


def test_vectors_are_held_against_torch_in_float64(results: Results) -> None:
    for case in results.cases:
        assert case.parity is not None
        assert case.parity.reference == "torch in float64, each item alone"
        assert 1 - case.parity.min_cosine < 1e-10
        assert case.parity.overlap_at_10 == 1
        assert case.parity.items == 32


def test_the_work_of_the_graph_is_counted_and_steps_are_taken_apart_end_to_end(results: Results) -> None:
    graph, whole = find(results, "runtime", "graph"), find(results, "runtime", "end_to_end")
    assert graph.work is not None
    assert graph.work.operations > 0
    assert graph.work == find(results, "torch", "graph").work
    assert set(whole.stages) == {"tokenize", "infer"}
    assert (graph.tokens, whole.tokens, whole.work) == (8, None, None)


def test_what_is_there_is_not_left_unless_it_was_disturbed(results: Results, toy: Path, toy_weights: Path) -> None:
    plan = make_plan([toy], plan_for(toy, toy_weights, contenders=("runtime", "torch:eager")))
    quiet = [replace(case, stolen=(0.0, 0.04)) for case in results.cases]
    assert find_left(plan, replace(results, cases=tuple(quiet)), redo_disturbed=True) == []
    mixed = replace(results, cases=(*quiet[:3], replace(quiet[3], stolen=(0.2, 0.0))))
    assert find_left(plan, mixed, redo_disturbed=False) == []
    assert find_left(plan, mixed, redo_disturbed=True) == [plan.groups[1]]


def test_other_weights_than_those_of_the_export_are_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (subject,) = make_plan([toy], plan_for(toy, None)).subjects
    material = Material(subject, load_items("text", None, tmp_path))
    subject = replace(subject, weights="somewhere")
    vectors = np.random.default_rng(0).standard_normal((32, 24))
    monkeypatch.setattr(run, "embed_judged", lambda way, *_: vectors * (1 if way.contender == "runtime" else -1))
    with pytest.raises(UsageError, match="--weights toy="):
        make_reference(subject, material, EFFORT, tmp_path)


def test_without_torch_the_exported_graph_is_the_reference(toy: Path, tmp_path: Path) -> None:
    (subject,) = make_plan([toy], plan_for(toy, None, contenders=("runtime",))).subjects
    material = Material(subject, load_items("text", None, tmp_path))
    reference, skipped = make_reference(subject, material, EFFORT, tmp_path)
    assert "fp32 on cpu" in reference.name
    assert "--weights toy=WEIGHTS" in skipped[0].reason


def test_a_contender_that_fails_costs_itself_alone(toy: Path, tmp_path: Path) -> None:
    plan = make_plan([toy], plan_for(toy, None, contenders=("runtime",), stages=("graph",)))
    (group,) = plan.groups
    bad = replace(group.ways[0], variant="int8")
    material = Material(group.subject, load_items("text", None, tmp_path))
    reference, _ = make_reference(group.subject, material, EFFORT, tmp_path)
    cases, skipped = measure_group(replace(group, ways=(bad, *group.ways)), material, reference, EFFORT, tmp_path)
    assert [case.variant for case in cases] == ["fp32"]
    assert "runtime int8 on cpu" in skipped[0].name
    assert "int8" in skipped[0].reason


def test_a_process_that_dies_says_what_it_said_last(toy: Path, tmp_path: Path) -> None:
    (group,) = make_plan([toy], plan_for(toy, None, contenders=("runtime",), stages=("graph",))).groups
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho the last word >&2; exit 7\n")
    dying.chmod(0o755)
    task = Task(
        way=replace(group.ways[0], python=str(dying)),
        threads=1,
        stage="graph",
        items=1,
        feeds="",
        calls=(),
        parity_feeds="",
        parity_items=(),
        vectors="",
    )
    worker = Worker(task, tmp_path / "task.json")
    with pytest.raises(EmbeddingBackbonesError, match=r"exit code 7.*the last word"):
        worker.load()
    worker.close()


def test_rounds_end_when_all_medians_are_known_or_the_time_is_up(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(measure, "time", type("Clock", (), {"perf_counter": lambda: next(clock)}))
    monkeypatch.setattr(measure, "_take_in_peace", lambda take, patience: (0.01, 0.0, []))
    (group,) = make_plan([toy], plan_for(toy, None, contenders=("runtime",), stages=("graph",))).groups

    class Entrant:
        way = group.ways[0]

        def __init__(self, times: itertools.cycle[float]) -> None:
            self.rounds: list[tuple[float, ...]] = []
            self.stolen: list[float] = []
            self._times = times

        def take_turn(self, patience: Patience) -> None:
            self.rounds.append((next(self._times),))
            self.stolen.append(0.0)

        def keep(self, rounds: Collection[int]) -> None:
            assert len(rounds) == len(self.rounds)

    steady, restless = Entrant(itertools.cycle([1.0])), Entrant(itertools.cycle([1.0, 2.0]))
    effort = replace(EFFORT, min_rounds=5, seconds=10.0)
    assert len(measure._run_rounds([steady], group, effort, [])) == 5  # type: ignore[list-item]
    yardstick = measure._run_rounds([restless], group, effort, [])  # type: ignore[list-item]
    assert len(yardstick) == len(restless.rounds) == 11


class RobbedWorker:
    """A worker that takes a tenth of a second, of which the host keeps the shares that are given."""

    def __init__(self, shares: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        self._shares, self._time = iter(shares), CpuTime(7, 100)
        monkeypatch.setattr(measure, "read_cpu_time", lambda: self._time)

    def ask(self, command: str) -> dict[str, Any]:
        share = next(self._shares)
        self._time = CpuTime(self._time.stolen + round(1000 * share), self._time.wanted + 1000)
        return {"seconds": [0.1 * (1 + share)], "peak_bytes": 1}


def test_a_turn_that_the_host_disturbed_is_taken_again_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = RobbedWorker([0.3, 0.02, 0.5], monkeypatch)
    entrant = measure._Entrant(way=None, worker=worker, start_s=1, first_s=1)  # type: ignore[arg-type]
    entrant.take_turn(Patience(60))
    entrant.take_turn(Patience(0))
    assert entrant.rounds == [pytest.approx((0.102,)), pytest.approx((0.15,))]
    assert entrant.stolen == [0.02, 0.5]
    assert entrant.left_out == [pytest.approx((0.13,))]


def test_a_yardstick_that_the_host_disturbed_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, lengths = RobbedWorker([0.3, 0.02, 0.5], monkeypatch), iter([3.0, 2.0, 1.0])

    def measure_one() -> float:
        worker.ask("turn")
        return next(lengths)

    assert measure._take_in_peace(measure_one, Patience(60)) == (2, 0.02, [3])
    assert measure._take_in_peace(measure_one, Patience(0)) == (1, 0.5, [])


def test_nobody_is_timed_while_the_threads_of_the_last_one_still_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(
        "benchmarks.measure.rounds.time.sleep", lambda seconds: done.append("rest" if seconds >= 0.05 else "too short")
    )
    measure._take_in_peace(lambda: done.append("turn"), Patience(60))
    assert done == ["rest", "turn"]


def test_patience_ends() -> None:
    patience = Patience(2)
    assert [patience.bears(0.9) for _ in range(3)] == [True, True, False]
    assert patience.lost == pytest.approx(1.8)


@pytest.mark.parametrize(("enough", "kept"), [(2, [1.0, 4.0]), (3, [1.0, 2.0, 3.0, 4.0])])
def test_rounds_that_were_disturbed_for_anyone_are_left_out_if_enough_remain(enough: int, kept: list[float]) -> None:
    both = [
        measure._Entrant(
            way=None,  # type: ignore[arg-type]
            worker=None,  # type: ignore[arg-type]
            start_s=1,
            first_s=1,
            rounds=[(1.0,), (2.0,), (3.0,), (4.0,)],
            stolen=stolen,
        )
        for stolen in ([0.0, 0.2, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0])
    ]
    assert list(measure._leave_out_disturbed(both, [1.0, 2.0, 3.0, 4.0], enough)) == kept
    for entrant in both:
        assert entrant.rounds == [(second,) for second in kept]
        assert sorted([*entrant.rounds, *entrant.left_out]) == [(1.0,), (2.0,), (3.0,), (4.0,)]
        assert len(entrant.stolen) == len(kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu  100 5 20 4000 300 1 4 70 9 2\ncpu0 1 1 1 1 1 1 1 1 1 1\n", CpuTime(70, 200)),
        ("cpu  100 5 20 4000\n", CpuTime(0, 0)),
        ("", CpuTime(0, 0)),
        (None, CpuTime(0, 0)),
    ],
    ids=["linux", "old kernel", "empty", "another system"],
)
def test_the_stolen_time_is_read_where_a_system_tells(
    text: str | None, expected: CpuTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.results.steal_time._STAT", tmp_path / "stat")
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert read_cpu_time() == expected
    assert read_cpu_time().stolen_since(expected) == 0


def test_a_turn_repeats_short_calls_and_not_long_ones() -> None:
    made: list[str] = []
    clock = itertools.count(0.0, 0.1)
    seconds = take_turn([lambda: made.append("a"), lambda: made.append("b")], clock=lambda: next(clock))
    assert made == ["b", "a", "b", "a", "b"]
    assert seconds == pytest.approx([0.1] * 4)
    slow = itertools.count(0.0, 5.0)
    assert len(take_turn([lambda: None], clock=lambda: next(slow))) == 1
    quick = itertools.count(0.0, 1e-6)
    assert len(take_turn([lambda: None] * 2, clock=lambda: next(quick))) == 24


def test_the_peak_is_that_of_this_process(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name: x\nVmPeak:  900 kB\nVmHWM:   5 kB\n")
    assert peak_bytes(status) == 5 * 1024
    assert peak_bytes(tmp_path / "none") > 2**20


def test_arrays_come_back_by_batch_and_name(tmp_path: Path) -> None:
    batches = [{"a": np.arange(number), "b/c": np.ones(1)} for number in range(12)]
    write_arrays(tmp_path / "x.npz", batches)
    found = read_arrays(tmp_path / "x.npz")
    assert len(found) == 12
    for number, batch in enumerate(found):
        assert batch.keys() == {"a", "b/c"}
        np.testing.assert_array_equal(batch["a"], np.arange(number))


def test_parity_names_the_worst_items() -> None:
    reference = np.random.default_rng(0).standard_normal((40, 8))
    vectors = reference.copy()
    vectors[7] *= -1
    vectors[3] += 0.5
    parity = judge(reference, vectors, [f"item {row}\n" * 30 for row in range(40)], "torch")
    assert [worst.item.split(" item")[0] for worst in parity.worst[:2]] == ["item 7", "item 3"]
    assert parity.min_cosine == pytest.approx(-1)
    assert parity.p1_cosine > parity.min_cosine
    assert parity.relative_error == pytest.approx(parity.max_abs_error / np.abs(reference).max())
    assert parity.overlap_at_10 < 1
    assert all(len(worst.item) < 70 for worst in parity.worst)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(np.zeros((12, 12)), "nothing but zeros"), (np.full((12, 12), np.nan), "NaN"), (np.eye(11), r"\[11, 11\]")],
    ids=["zeros", "nan", "shape"],
)
def test_vectors_of_which_nothing_can_be_said_are_refused(vectors: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(EmbeddingBackbonesError, match=message):
        judge(np.eye(12), vectors, ["x"] * 12, "torch")


def test_each_kind_has_items_that_its_tower_takes(exported: Path, tmp_path: Path) -> None:
    (subject,) = make_plan([exported], Choices(contenders=("runtime",))).subjects
    material = Material(subject, load_items("image", None, tmp_path))
    arrays = material.write_feeds(tmp_path / "f.npz", 3, None)
    assert arrays["pixels"].shape == (3, 40, 40, 3)
    material.write_judged(tmp_path / "j.npz", 5)
    assert [len(batch["pixels"]) for batch in read_arrays(tmp_path / "j.npz")] == [5, 5, 5, 5, 5, 5, 2]


@pytest.mark.parametrize("size", [1, 3, 8, 16, 32, 48])
def test_calls_of_every_size_hold_the_same_items_equally_often(size: int, toy: Path, tmp_path: Path) -> None:
    (subject,) = make_plan([toy], plan_for(toy, None, contenders=("runtime",))).subjects
    material = Material(subject, load_items("text", None, tmp_path))
    calls = material.calls(size)
    assert {len(call) for call in calls} == {size}
    counts = Counter(item for call in calls for item in call)
    assert len(counts) == 16
    assert len(set(counts.values())) == 1
    assert set(counts) == {item for call in material.calls(1) for item in call}


def test_typical_items_are_of_all_lengths_and_mixed() -> None:
    picked = pick_typical(["x" * length for length in range(1, 257)], range(1, 257), 16)
    lengths = [len(text) for text in picked]
    assert sorted(lengths) == [9 + 16 * number for number in range(16)]
    assert lengths != sorted(lengths)


def test_meshes_are_read_by_the_runtime(tmp_path: Path) -> None:
    from runtime.preprocess.mesh.triangles import load_corners

    items = load_items("mesh", None, tmp_path)
    assert len(items.items) == len(set(items.names)) == 64
    corners = load_corners(items.items[0])
    assert corners.shape == (2 * 48 * 24, 3, 3)


def test_ones_own_items_are_taken(tmp_path: Path) -> None:
    listing = tmp_path / "mine.txt"
    listing.write_text("\n".join(f"text {number}" for number in range(40)))
    items = load_items("text", listing, tmp_path)
    assert items.source == "mine.txt"
    assert len(items.items) == 40
    listing.write_text("one\ntwo")
    with pytest.raises(UsageError, match="holds 2 items, where 16 are needed"):
        load_items("text", listing, tmp_path)


def test_judged_texts_are_padded_as_they_come(toy: Path, tmp_path: Path) -> None:
    (subject,) = make_plan([toy], plan_for(toy, None, contenders=("runtime",))).subjects
    material = Material(subject, load_items("text", None, tmp_path))
    material.write_judged(tmp_path / "alone.npz", 1)
    material.write_judged(tmp_path / "together.npz", 8)
    alone, together = (read_arrays(tmp_path / f"{name}.npz") for name in ("alone", "together"))
    assert all(batch["attention_mask"].all() for batch in alone)
    assert any(not batch["attention_mask"].all() for batch in together)
    arrays = material.write_feeds(tmp_path / "feeds.npz", 3, 8)
    assert arrays["input_ids"].shape == (3, 8)
    assert arrays["attention_mask"].all()
    assert len(np.unique(arrays["input_ids"], axis=0)) == 3


def test_vectors_of_a_batch_are_in_order(toy: Path, tmp_path: Path) -> None:
    (group, *_) = make_plan([toy], plan_for(toy, None, contenders=("runtime",))).groups
    material = Material(group.subject, load_items("text", None, tmp_path))
    vectors = embed_judged(group.ways[0], material, EFFORT, tmp_path)
    assert vectors.shape == (32, 24)
    reference = measure.Reference(name="x", vectors=vectors)
    whole = Group(subject=group.subject, stage="end_to_end", items=7, tokens=None, ways=group.ways)
    (case,), _ = measure_group(whole, material, reference, EFFORT, tmp_path)
    assert case.parity is not None
    assert case.parity.min_cosine > 1 - 1e-10
    assert summarize(case).calls >= 3
