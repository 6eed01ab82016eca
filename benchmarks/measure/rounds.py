"""Contenders at one piece of work: each in a fresh process, taking turns until their medians are known well enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.contenders.protocol import Array, Subject, Way
from benchmarks.measure.operations import count_work, variant_weight_bytes
from benchmarks.measure.parity import judge
from benchmarks.measure.worker_client import Task, Worker
from benchmarks.measure.workload import Material
from benchmarks.results.schema import Case, Parity, Skipped, Stage, Work
from benchmarks.results.statistics import is_precise
from benchmarks.results.steal_time import MOST_STOLEN, read_cpu_time
from runtime.errors import EmbeddingBackbonesError

_YARDSTICK_SIZE, _YARDSTICK_TIMES = 1024, 9
_MOST_ROUNDS = 200
# onnxruntime's threads were seen to spin on for 25 to 45 ms after a call, on the cores of whoever is next.
_REST_S = 0.1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        threads: Threads that every contender is given.
        min_rounds: Rounds that all take at least.
        seconds: Of measuring, for each contender, after which no further round begins.
        patience: Seconds of a group that turns may take which the host of the machine disturbed, and do not count.
        confidence: Of the interval of each median.
        precision: Half-width of that interval, as a share of the median, at which it is known well enough.
    """

    threads: int
    min_rounds: int
    seconds: float
    patience: float
    confidence: float
    precision: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """A piece of work, at which contenders take turns.

    Attributes:
        subject: What embeds.
        stage: Whether they are given arrays or items.
        items: Items of a call.
        tokens: Length of each text; ``None`` where lengths are mixed, or there are none.
        ways: The contenders.
    """

    subject: Subject
    stage: Stage
    items: int
    tokens: int | None
    ways: tuple[Way, ...]

    def __str__(self) -> str:
        length = f" x {self.tokens}" if self.tokens else ""
        stage = "graph" if self.stage == "graph" else "end to end"
        return f"{self.subject.manifest.name}, {self.subject.tower}, {stage}, {self.items}{length}"

    def is_of(self, case: Case) -> bool:
        """Tells whether ``case`` is one of this group."""
        name = self.subject.manifest.name
        mine = (name, self.subject.tower, self.stage, self.items, self.tokens)
        return (case.artifact, case.tower, case.stage, case.items, case.tokens) == mine


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The vectors that are right.

    Attributes:
        name: Who gave them.
        vectors: ``[items, output_dim]``.
    """

    name: str
    vectors: Array


class Patience:
    """With a host that gives CPU time to others."""

    def __init__(self, seconds: float) -> None:
        """There are so many seconds of it."""
        self.lost = 0.0
        self._seconds = seconds

    def bears(self, seconds: float) -> bool:
        """Tells whether a turn that took so long may be taken again, and counts it then."""
        if self.lost + seconds > self._seconds:
            return False
        self.lost += seconds
        return True


@dataclass(kw_only=True)
class _Entrant:
    """A contender that is running, and its times so far."""

    way: Way
    worker: Worker
    start_s: float
    first_s: float
    rounds: list[tuple[float, ...]] = field(default_factory=list)
    stolen: list[float] = field(default_factory=list)
    left_out: list[tuple[float, ...]] = field(default_factory=list)
    peak_bytes: int = 0

    def take_turn(self, patience: Patience) -> None:
        answer, stolen, disturbed = _take_in_peace(lambda: self.worker.ask("turn"), patience)
        self.rounds.append(_seconds(answer))
        self.stolen.append(round(stolen, 4))
        self.left_out += map(_seconds, disturbed)
        self.peak_bytes = answer["peak_bytes"]

    def keep(self, rounds: Collection[int]) -> None:
        """Leaves out all other rounds."""
        self.left_out += [turn for number, turn in enumerate(self.rounds) if number not in rounds]
        self.rounds = [self.rounds[number] for number in rounds]
        self.stolen = [self.stolen[number] for number in rounds]


def measure_group(
    group: Group, material: Material, reference: Reference, effort: Effort, scratch: Path
) -> tuple[list[Case], list[Skipped]]:
    """Measures all contenders of ``group``; one that fails is left out, with the reason.

    Args:
        group: The work.
        material: What is embedded.
        reference: What the vectors are held against.
        effort: How much is measured.
        scratch: A folder for files that go with it.
    """
    task, arrays = _prepare(group, material, effort, scratch)
    skipped: list[Skipped] = []
    with ExitStack() as stack:
        entrants = []
        for number, way in enumerate(group.ways):
            own = replace(task, way=way, vectors=str(scratch / f"{number}.npy"))
            try:
                entrants.append(_start(own, stack))
            except EmbeddingBackbonesError as exc:
                skipped.append(_skip(group, way, exc))
        yardstick = _run_rounds(entrants, group, effort, skipped)
        cases = [_conclude(entrant, group, material, reference, yardstick, skipped) for entrant in entrants]
    work = _count(group, arrays) if group.stage == "graph" else {}
    return [replace(case, work=work.get(_graph_of(case))) for case in cases if case is not None], skipped


def embed_judged(way: Way, material: Material, effort: Effort, scratch: Path) -> Array:
    """Returns what ``way`` gives for the items by which parity is judged, each embedded alone.

    Raises:
        EmbeddingBackbonesError: It cannot.
    """
    feeds, vectors = scratch / "judged.npz", scratch / "judged.npy"
    material.write_judged(feeds, 1)
    task = _task(way, effort, stage="graph", items=1, feeds=str(feeds), parity_feeds=str(feeds), vectors=str(vectors))
    worker = Worker(task, scratch / "judged.json")
    try:
        worker.load()
        worker.ask("embed")
    finally:
        worker.close()
    return np.asarray(np.load(vectors))


def _start(task: Task, stack: ExitStack) -> _Entrant:
    """Returns a contender that is loaded, and is closed with ``stack``.

    Raises:
        EmbeddingBackbonesError: It cannot be loaded.
    """
    for is_measured in [False] * task.way.exports + [True]:
        worker = Worker(task, Path(task.vectors).with_suffix(".json"))
        stack.callback(worker.close)
        start_s, first_s = worker.load()
        if not is_measured:
            worker.close()
    return _Entrant(way=task.way, worker=worker, start_s=start_s, first_s=first_s)


def _prepare(group: Group, material: Material, effort: Effort, scratch: Path) -> tuple[Task, dict[str, Array]]:
    """Returns the task that all contenders have in common, and the arrays of a call."""
    way = group.ways[0]
    if group.stage == "end_to_end":
        calls = material.calls(group.items)
        return _task(way, effort, "end_to_end", group.items, calls=calls, parity_items=material.judged.items), {}
    feeds, judged = scratch / "feeds.npz", scratch / "judged.npz"
    arrays = material.write_feeds(feeds, group.items, group.tokens)
    material.write_judged(judged, group.items)
    return _task(way, effort, "graph", group.items, feeds=str(feeds), parity_feeds=str(judged)), arrays


def _task(
    way: Way,
    effort: Effort,
    stage: Stage,
    items: int,
    *,
    feeds: str = "",
    calls: tuple[tuple[str, ...], ...] = (),
    parity_feeds: str = "",
    parity_items: tuple[str, ...] = (),
    vectors: str = "",
) -> Task:
    return Task(
        way=way,
        threads=effort.threads,
        stage=stage,
        items=items,
        feeds=feeds,
        calls=calls,
        parity_feeds=parity_feeds,
        parity_items=parity_items,
        vectors=vectors,
    )


def _run_rounds(entrants: list[_Entrant], group: Group, effort: Effort, skipped: list[Skipped]) -> tuple[float, ...]:
    """Has all take turns, every other round backwards, and returns the yardstick of each round."""
    yardstick: list[float] = []
    patience, started = Patience(effort.patience), time.perf_counter()
    while entrants and len(yardstick) < _MOST_ROUNDS:
        yardstick.append(_take_in_peace(measure_yardstick, patience)[0])
        for entrant in entrants[:: 1 if len(yardstick) % 2 else -1]:
            try:
                entrant.take_turn(patience)
            except EmbeddingBackbonesError as exc:
                entrants.remove(entrant)
                skipped.append(_skip(group, entrant.way, exc))
        elapsed = time.perf_counter() - started - patience.lost
        if len(yardstick) >= effort.min_rounds and (
            elapsed > effort.seconds * len(entrants)
            or all(is_precise(entrant.rounds, effort.confidence, effort.precision) for entrant in entrants)
        ):
            break
    return _leave_out_disturbed(entrants, yardstick, effort.min_rounds)


def _leave_out_disturbed(entrants: list[_Entrant], yardstick: list[float], min_rounds: int) -> tuple[float, ...]:
    """Keeps the rounds that the host disturbed for nobody, if there are enough, and returns their yardstick."""
    calm = [number for number in range(len(yardstick)) if all(each.stolen[number] <= MOST_STOLEN for each in entrants)]
    if len(calm) < min_rounds:
        return tuple(yardstick)
    for entrant in entrants:
        entrant.keep(calm)
    return tuple(yardstick[number] for number in calm)


def _take_in_peace(take: Callable[[], T], patience: Patience) -> tuple[T, float, list[T]]:
    """Returns what ``take`` gives once the last one's threads rest and the host leaves it alone, or patience is lost.

    With it come the share of CPU time that was stolen meanwhile, and what it gave when that was too much.
    """
    disturbed: list[T] = []
    while True:
        time.sleep(_REST_S)
        started, before = time.perf_counter(), read_cpu_time()
        taken = take()
        stolen = read_cpu_time().stolen_since(before)
        if stolen <= MOST_STOLEN or not patience.bears(time.perf_counter() - started):
            return taken, stolen, disturbed
        disturbed.append(taken)


def _seconds(answer: dict[str, Any]) -> tuple[float, ...]:
    return tuple(round(second, 7) for second in answer["seconds"])


def measure_yardstick() -> float:
    """Returns the median seconds of a product of two float32 matrices of 1024 x 1024 by numpy, of nine."""
    matrix = np.ones((_YARDSTICK_SIZE, _YARDSTICK_SIZE), dtype=np.float32)
    seconds = []
    for _ in range(_YARDSTICK_TIMES):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return round(float(np.median(seconds)), 7)


def _conclude(
    entrant: _Entrant,
    group: Group,
    material: Material,
    reference: Reference,
    yardstick: tuple[float, ...],
    skipped: list[Skipped],
) -> Case | None:
    try:
        stages = entrant.worker.ask("take apart")["stages"]
        entrant.worker.ask("embed")
        vectors = np.load(entrant.worker.task.vectors)
        parity = judge(reference.vectors, vectors, material.judged.names, reference.name)
    except EmbeddingBackbonesError as exc:
        skipped.append(_skip(group, entrant.way, exc))
        return None
    return _case(entrant, group, yardstick, stages, parity)


def _case(
    entrant: _Entrant, group: Group, yardstick: tuple[float, ...], stages: dict[str, float], parity: Parity
) -> Case:
    way = entrant.way
    return Case(
        artifact=group.subject.manifest.name,
        tower=group.subject.tower,
        contender=way.contender,
        variant=way.variant,
        provider=way.provider,
        precision=way.precision,
        stage=group.stage,
        items=group.items,
        tokens=group.tokens,
        rounds=tuple(entrant.rounds),
        yardstick=yardstick,
        stolen=tuple(entrant.stolen),
        left_out=tuple(entrant.left_out),
        start_s=entrant.start_s,
        first_s=entrant.first_s,
        peak_bytes=entrant.peak_bytes,
        stages=stages,
        parity=parity,
        work=None,
    )


def _graph_of(case: Case) -> str:
    return case.variant if case.contender == "runtime" else "fp32"


def _count(group: Group, arrays: dict[str, Array]) -> dict[str, Work]:
    """Returns the work of a call by variant; all of them do the operations of the graph as it was exported."""
    folder, record = group.subject.folder, group.subject.manifest.towers[group.subject.tower]
    work = count_work(folder / record.graph, arrays, variant_weight_bytes(folder, record, "fp32"))
    inputs = work.read_bytes - variant_weight_bytes(folder, record, "fp32")
    return {
        variant: replace(work, read_bytes=inputs + variant_weight_bytes(folder, record, variant))
        for variant in ("fp32", *record.variants)
    }


def _skip(group: Group, way: Way, exc: Exception) -> Skipped:
    return Skipped(name=f"{group}: {way.contender} {way.variant} on {way.provider}", reason=str(exc))
