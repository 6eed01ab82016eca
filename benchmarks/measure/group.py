"""Measure a group of cases: several contenders with one target, stage, batch size and length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contenders.protocol import Setup, Target
from benchmarks.measure.operations import count_work, variant_weight_bytes
from benchmarks.measure.parity import measure_parity
from benchmarks.measure.rounds import Participant, TimingOptions, run_rounds
from benchmarks.measure.worker_client import Task, Worker
from benchmarks.measure.workload import Workload
from benchmarks.results.schema import Case, CaseParity, Skipped, Stage, Work, group_name
from runtime.array_types import Array
from runtime.errors import EmbeddingBackbonesError

_HALF = "fp32 in half precision"


@dataclass(frozen=True, kw_only=True)
class CaseGroup:
    """Cases that are measured in the same rounds."""

    target: Target
    stage: Stage  # `graph` embeds arrays, `end_to_end` embeds items.
    items: int  # items per call.
    tokens: int | None  # length of each text; `None` if lengths are mixed, or for other items.
    setups: tuple[Setup, ...]

    def __str__(self) -> str:
        return group_name(self.target.manifest.name, self.target.tower, self.stage, self.items, self.tokens)

    def includes(self, case: Case) -> bool:
        """Tell whether ``case`` belongs to this group."""
        key = (self.target.manifest.name, self.target.tower, self.stage, self.items, self.tokens)
        return (case.artifact, case.tower, case.stage, case.items, case.tokens) == key

    def lacks_any(self, cases: Sequence[Case]) -> bool:
        """Tell whether any contender of this group has none of ``cases``."""
        measured = {(case.contender, case.variant, case.provider) for case in cases}
        return any((setup.contender, setup.variant, setup.provider) not in measured for setup in self.setups)

    def skip(self, what: object, exc: Exception) -> Skipped:
        """Return the record of a contender, or of something else, that failed in this group."""
        return Skipped(name=f"{self}: {what}", reason=str(exc))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference vectors for parity."""

    name: str  # origin of the vectors.
    vectors: Array  # `[items, output_dim]`.


def measure_group(
    group: CaseGroup, workload: Workload, reference: Reference, options: TimingOptions, scratch: Path
) -> tuple[list[Case], list[Skipped]]:
    """Measure all contenders of ``group``. A contender that fails is left out, with the reason."""
    skipped: list[Skipped] = []
    try:
        task, arrays = _prepare(group, workload, options, scratch)
    except EmbeddingBackbonesError as exc:
        return [], [group.skip(setup, exc) for setup in group.setups]
    with ExitStack() as stack:
        participants = []
        for number, setup in enumerate(group.setups):
            own = replace(task, setup=setup, vectors=str(scratch / f"{number}.npy"))
            try:
                participants.append(_start(own, stack))
            except EmbeddingBackbonesError as exc:
                skipped.append(group.skip(setup, exc))
        reference_times = run_rounds(participants, options, lambda setup, exc: skipped.append(group.skip(setup, exc)))
        cases = []
        for participant in participants:
            try:
                steps = participant.worker.time_steps()
                vectors = participant.worker.embed_parity_items()
                parity = measure_parity(reference.vectors, vectors, workload.parity_items.names, reference.name)
            except EmbeddingBackbonesError as exc:
                skipped.append(group.skip(participant.setup, exc))
            else:
                cases.append(_make_case(participant, group, reference_times, steps, parity))
    work: dict[str, Work] = {}
    if group.stage == "graph" and cases:
        try:
            work = _count(group, arrays)
        except EmbeddingBackbonesError as exc:
            skipped.append(group.skip("roofline", exc))
    return [replace(case, work=work.get(_weights_of(case))) for case in cases], skipped


def _weights_of(case: Case) -> str:
    """Return the key of its weights in the work of a group. Others read those of the fp32 graph, in their precision."""
    own = case.contender == "runtime" and case.variant != "bf16"
    return case.variant if own else _HALF if case.precision in ("fp16", "bf16") else "fp32"


def embed_alone(setup: Setup, workload: Workload, options: TimingOptions, scratch: Path) -> Array:
    """Return the vectors of the parity items, each embedded in its own call.

    Raises:
        EmbeddingBackbonesError: The contender cannot be loaded, or cannot embed.
    """
    feeds, vectors = str(scratch / "parity.npz"), str(scratch / "parity.npy")
    workload.write_parity_feeds(Path(feeds), 1)
    task = Task(
        setup=setup, threads=options.threads, stage="graph", items=1, feeds=feeds, parity_feeds=feeds, vectors=vectors
    )
    worker = Worker(task, scratch / "parity.json")
    try:
        worker.load()
        return worker.embed_parity_items()
    finally:
        worker.close()


def _start(task: Task, stack: ExitStack) -> Participant:
    """Return a loaded contender, which ``stack`` closes."""
    for is_measured in [False] * task.setup.exports + [True]:
        worker = Worker(task, Path(task.vectors).with_suffix(".json"))
        stack.callback(worker.close)
        start_s, first_s = worker.load()
        if not is_measured:
            worker.close()
    return Participant(setup=task.setup, stage=task.stage, worker=worker, start_s=start_s, first_s=first_s)


def _prepare(
    group: CaseGroup, workload: Workload, options: TimingOptions, scratch: Path
) -> tuple[Task, dict[str, Array]]:
    """Return the task that all contenders share, and the arrays of a call."""
    task = Task(setup=group.setups[0], threads=options.threads, stage=group.stage, items=group.items)
    if group.stage == "end_to_end":
        return replace(task, calls=workload.calls(group.items), parity_items=workload.parity_items.items), {}
    feeds, parity_feeds = scratch / "feeds.npz", scratch / "parity.npz"
    arrays = workload.write_feeds(feeds, group.items, group.tokens)
    workload.write_parity_feeds(parity_feeds, group.items)
    return replace(task, feeds=str(feeds), parity_feeds=str(parity_feeds)), arrays


def _make_case(
    participant: Participant,
    group: CaseGroup,
    reference_times: tuple[float, ...],
    steps: dict[str, float],
    parity: CaseParity,
) -> Case:
    setup = participant.setup
    return Case(
        artifact=group.target.manifest.name,
        tower=group.target.tower,
        contender=setup.contender,
        variant=setup.variant,
        provider=setup.provider,
        precision=setup.precision,
        stage=group.stage,
        items=group.items,
        tokens=group.tokens,
        rounds=tuple(participant.rounds),
        yardstick=reference_times,
        stolen=tuple(participant.steal),
        left_out=tuple(participant.left_out),
        start_s=participant.start_s,
        first_s=participant.first_s,
        peak_bytes=participant.peak_bytes,
        stages=steps,
        parity=parity,
        work=None,
    )


def _count(group: CaseGroup, arrays: dict[str, Array]) -> dict[str, Work]:
    """Return the work of a call by variant, and with the fp32 graph's weights in half precision.

    All do the operations of the fp32 graph.
    """
    folder, record = group.target.folder, group.target.manifest.towers[group.target.tower]
    fp32_bytes = variant_weight_bytes(folder, record, "fp32")
    work = count_work(folder / record.graph, arrays, fp32_bytes)
    sizes: dict[str, int] = {"fp32": fp32_bytes, _HALF: fp32_bytes // 2}
    sizes |= {variant: variant_weight_bytes(folder, record, variant) for variant in record.variants}
    return {name: replace(work, read_bytes=work.read_bytes - fp32_bytes + size) for name, size in sizes.items()}
