"""Collect what can be chosen from: end-to-end cases of several machines, sorted by embedding task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.choose.queueing import ServiceTimes, interpolate_service_times
from benchmarks.results.differences import find_differences
from benchmarks.results.items import check_items, doubt_texts, has_built_in, warn_of_built_in
from benchmarks.results.schema import Artifact, Case, Results, ResultsError
from benchmarks.results.statistics import TimesWarning, find_warning
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EmbeddingTask:
    """The work to do. Only cases of the same task are compared."""

    artifact: Artifact  # the artifact; vectors of another one are no substitute.
    tower: TowerName
    tokens: int | None  # length of each text; `None` for mixed lengths, or without texts.

    @property
    def label(self) -> str:
        """Name of the task: ``toy-text, text``."""
        return f"{self.artifact.name}, {self.tower}" + (f" with {self.tokens} tokens" if self.tokens else "")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A setup on a machine, with batches up to a measured size."""

    machine: str
    label: str  # name of the setup: contender, variant and provider.
    max_batch: int  # items of the largest batch.
    cases: tuple[Case, ...]  # cases with at most that many items, the smallest batch first.
    built_in: bool  # whether the items are the built-in ones.
    warning: TimesWarning  # reason to doubt some of their times.

    @property
    def min_cosine(self) -> float | None:
        """Smallest cosine similarity to torch at any batch size; ``None`` if one size was not compared."""
        cosines = [case.torch_cosine for case in self.cases if case.torch_cosine is not None]
        return min(cosines) if len(cosines) == len(self.cases) else None

    def service_times(self) -> ServiceTimes:
        """Return the times of its batches."""
        return interpolate_service_times({case.items: times_of(case) for case in self.cases}, self.max_batch)


Offer = tuple[Deployment, ...]  # a setup on a machine, with all its limits of the batch size, the smallest first


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path  # file of the results.
    task: EmbeddingTask
    machine: str
    case: Case
    built_in: bool
    warning: TimesWarning

    @property
    def setup(self) -> tuple[str, ...]:
        return (self.machine, self.case.contender, self.case.variant, self.case.provider)


def times_of(case: Case) -> tuple[float, ...]:
    """Return the seconds of all calls of ``case``."""
    return tuple(seconds for turn in case.rounds for seconds in turn)


def find_offers(
    files: Sequence[tuple[Path, Results]], artifact: str | None = None, tower: str | None = None
) -> tuple[dict[EmbeddingTask, tuple[Offer, ...]], list[str]]:
    """Sort the end-to-end cases by task, machine and setup.

    ``files`` are results, each with the path of its file. Only cases of ``artifact`` and ``tower`` are kept, if given.

    Returns:
        The offers for each task, and warnings about the results.

    Raises:
        ResultsError: Results contradict each other, are of different items, or have no end-to-end case.
        UsageError: No case has that artifact and tower.
    """
    _check_machines(files)
    warnings = [f"{path} is incomplete: cases that it lacks cannot be chosen" for path, r in files if not r.complete]
    by_date = sorted(files, key=lambda file: file[1].date)
    entries = _newest([entry for path, results in by_date for entry in _entries(path, results, warnings)], warnings)
    if not entries:
        raise ResultsError(
            "no case was measured end to end (stage end_to_end), which hardware is chosen by; "
            "measure both stages with `python -m benchmarks ARTIFACT -o REPORT`"
        )
    wanted = [e for e in entries if artifact in (None, e.task.artifact.name) and tower in (None, e.task.tower)]
    if not wanted:
        raise UsageError(
            f"no case of {artifact or 'any artifact'}, {tower or 'any tower'}; the results have: "
            + "; ".join(sorted({entry.task.label for entry in entries}))
        )
    tasks = sorted({entry.task for entry in wanted}, key=lambda task: (task.label, task.artifact.seal))
    for task in tasks:
        paths = {entry.path for entry in wanted if entry.task == task}
        shared = {str(path): results for path, results in files if path in paths}
        check_items(shared, [task.tower])
        found = [warn_of_built_in(shared.values(), task.tower)]
        found += [doubt_texts(shared.values())] if task.tower == "text" else []
        warnings += [warning for warning in found if warning and warning not in warnings]
    warnings += [*_machine_warnings(files), *_artifact_warnings(tasks)]
    return {task: tuple(_offers(entry for entry in wanted if entry.task == task)) for task in tasks}, warnings


def _entries(path: Path, results: Results, warnings: list[str]) -> Iterator[_Entry]:
    artifacts = {artifact.name: artifact for artifact in results.artifacts}
    for case in results.cases:
        if case.stage != "end_to_end":
            continue
        if case.artifact not in artifacts:
            raise ResultsError(f"{path} has cases of {case.artifact}, but no description of it; measure again")
        if case.items < 1 or min(times_of(case), default=0.0) <= 0:
            warnings.append(f"{path}: {case.label} with batch size {case.items} has no valid times; it is ignored")
            continue
        yield _Entry(
            path=path,
            task=EmbeddingTask(artifact=artifacts[case.artifact], tower=case.tower, tokens=case.tokens),
            machine=results.machine.name,
            case=case,
            built_in=has_built_in(results, case.tower),
            warning=find_warning(case, results.confidence, results.precision),
        )


def _newest(entries: Sequence[_Entry], warnings: list[str]) -> list[_Entry]:
    newest = {(entry.machine, entry.task, entry.case.key): entry for entry in entries}
    if len(newest) < len(entries):
        count = len(entries) - len(newest)
        cases = "1 case was" if count == 1 else f"{count} cases were"
        warnings.append(f"{cases} measured more than once on the same machine; the newest times are used")
    return list(newest.values())


def _machine_warnings(files: Sequence[tuple[Path, Results]]) -> Iterator[str]:
    """Yield the machines of which an instance uses only a part, although the price is that of the whole."""
    for machine in {results.machine.name: results.machine for _, results in files}.values():
        cores = math.ceil(min(machine.cores_allowed, machine.cpu_quota or math.inf))
        if machine.threads < cores:
            yield f"an instance uses {machine.threads} of the {cores} cores of {machine.name}; measure with all of them"
        cases = (case for _, results in files if results.machine.name == machine.name for case in results.cases)
        if len(machine.gpus) > 1 and any(case.device == "cuda" for case in cases):
            yield f"an instance uses 1 of the {len(machine.gpus)} GPUs of {machine.name}, at the price of all of them"


def _artifact_warnings(tasks: Iterable[EmbeddingTask]) -> Iterator[str]:
    artifacts = {task.artifact.seal: task.artifact for task in tasks}.values()
    names = [artifact.name for artifact in artifacts]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield (
            f"several artifacts are called {name}; each gets its own choice, because their vectors may differ. "
            "To compare machines, copy one artifact to all of them instead of exporting it on each"
        )
    for artifact in artifacts:
        if artifact.random:
            yield f"the weights of {artifact.name} are random: its times are valid, but its vectors have no meaning"


def _offers(entries: Iterable[_Entry]) -> Iterator[Offer]:
    ordered = sorted(entries, key=lambda entry: (entry.setup, entry.case.items))
    for _, group in groupby(ordered, key=lambda entry: entry.setup):
        measured = tuple(group)
        yield tuple(_deployment(measured[: number + 1]) for number in range(len(measured)))


def _deployment(measured: Sequence[_Entry]) -> Deployment:
    return Deployment(
        machine=measured[-1].machine,
        label=measured[-1].case.label,
        max_batch=measured[-1].case.items,
        cases=tuple(entry.case for entry in measured),
        built_in=measured[-1].built_in,
        warning=next((entry.warning for entry in measured if entry.warning), ""),
    )


def _check_machines(files: Sequence[tuple[Path, Results]]) -> None:
    """Raise :class:`ResultsError` if two different machines have the same name."""
    seen: dict[str, tuple[Path, Results]] = {}
    for path, results in files:
        name = results.machine.name
        first, other = seen.setdefault(name, (path, results))
        hardware, _ = find_differences(other, results)
        names = ("cpu", "architecture", "cores_allowed", "cpu_quota", "threads", "gpus")
        if hardware.keys() & set(names):
            raise ResultsError(
                f"the machines of {first} and {path} are both called {name} but differ "
                f"({'; '.join(hardware.values())}); measure one of them with another --machine NAME "
                "and give each a price"
            )
