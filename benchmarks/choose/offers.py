"""What there is to choose from: cases from files or strings to vectors, of several machines, sorted by what they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.choose.queueing import Service, service_times
from benchmarks.results.schema import Artifact, BenchmarkMachine, Case, Results, ResultsError
from benchmarks.results.statistics import is_precise
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Job:
    """What has to be done. Only what does the same job is compared.

    Attributes:
        artifact: Whose vectors: those of another are no substitute.
        tower: Which of its graphs.
        tokens: Length of each text; ``None`` where lengths are mixed, or there are none.
    """

    artifact: Artifact
    tower: str
    tokens: int | None

    @property
    def label(self) -> str:
        """The job, for a person: ``toy-text, text``."""
        return f"{self.artifact.name}, {self.tower}" + (f" of {self.tokens} tokens" if self.tokens else "")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to embed, on one machine, in batches of up to a size that was measured.

    Attributes:
        machine: Name of the machine.
        label: Who, how and on what.
        batch: Items of the largest batch.
        cases: What was measured at sizes up to that, the smallest first.
        stable: Whether all of these times are as certain as was aimed at.
    """

    machine: str
    label: str
    batch: int
    cases: tuple[Case, ...]
    stable: bool

    @property
    def min_cosine(self) -> float | None:
        """Smallest cosine to torch at any of the sizes; ``None`` if one of them was not held against it."""
        cosines = [case.parity.min_cosine for case in self.cases if case.parity]
        return min(cosines) if len(cosines) == len(self.cases) else None

    def service(self) -> Service:
        """Returns how long its batches take."""
        return service_times({case.items: times_of(case) for case in self.cases}, self.batch)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One way to embed on one machine, at all of its batch sizes.

    Attributes:
        machine: Name of the machine.
        label: Who, how and on what.
        candidates: By size of the largest batch, the smallest first.
    """

    machine: str
    label: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    job: Job
    machine: str
    case: Case
    stable: bool

    @property
    def offer(self) -> tuple[str, ...]:
        return (self.machine, self.case.contender, self.case.variant, self.case.provider)


def times_of(case: Case) -> tuple[float, ...]:
    """Returns the seconds of all calls of ``case``."""
    return tuple(seconds for turn in case.rounds for seconds in turn)


def find_offers(
    files: Sequence[tuple[Path, Results]], artifact: str | None = None, tower: str | None = None
) -> tuple[dict[Job, tuple[Offer, ...]], list[str]]:
    """Sorts what was measured by job, machine and way.

    Args:
        files: Results, and the files that they are from.
        artifact: Name of the only artifact that is wanted.
        tower: The only tower that is wanted.

    Returns:
        The offers for each job, and warnings about what was measured.

    Raises:
        ResultsError: Results contradict one another, or nothing was measured from files or strings to vectors.
        UsageError: Nothing of that artifact or tower was.
    """
    _check_machines(files)
    warnings = [
        f"{path} is incomplete: what is not in it cannot be chosen" for path, each in files if not each.complete
    ]
    by_date = sorted(files, key=lambda file: file[1].date)
    entries = _newest([entry for path, results in by_date for entry in _entries(path, results, warnings)], warnings)
    if not entries:
        raise ResultsError(
            "no case goes from files or strings to vectors (stage end_to_end), and only such a one tells what a "
            "service needs; measure with `python -m benchmarks ARTIFACT -o REPORT`, both stages"
        )
    wanted = [entry for entry in entries if _wanted(entry.job, artifact, tower)]
    if not wanted:
        there = sorted({entry.job.label for entry in entries})
        raise UsageError(
            f"nothing was measured of {artifact or 'any artifact'}, {tower or 'any tower'}; there is: "
            + "; ".join(there)
        )
    warnings += _warnings_about({entry.job for entry in wanted})
    return {job: tuple(_offers(entry for entry in wanted if entry.job == job)) for job in _jobs(wanted)}, warnings


def _wanted(job: Job, artifact: str | None, tower: str | None) -> bool:
    return artifact in (None, job.artifact.name) and tower in (None, job.tower)


def _jobs(entries: Iterable[_Entry]) -> list[Job]:
    return sorted({entry.job for entry in entries}, key=lambda job: (job.label, job.artifact.seal))


def _entries(path: Path, results: Results, warnings: list[str]) -> Iterator[_Entry]:
    artifacts = {artifact.name: artifact for artifact in results.artifacts}
    for case in results.cases:
        if case.stage != "end_to_end":
            continue
        if case.artifact not in artifacts:
            raise ResultsError(f"{path} has cases of {case.artifact}, and does not say what that is; measure again")
        if case.items < 1 or min(times_of(case), default=0.0) <= 0:
            warnings.append(f"{path}: {case.label} at {case.items} items has no times that could be; it is left out")
            continue
        yield _Entry(
            job=Job(artifact=artifacts[case.artifact], tower=case.tower, tokens=case.tokens),
            machine=results.machine.name,
            case=case,
            stable=is_precise(case.rounds, results.confidence, results.precision),
        )


def _newest(entries: Sequence[_Entry], warnings: list[str]) -> list[_Entry]:
    newest = {(entry.machine, entry.job, entry.case.key): entry for entry in entries}
    if len(newest) < len(entries):
        count = len(entries) - len(newest)
        cases = "1 case was" if count == 1 else f"{count} cases were"
        warnings.append(f"{cases} measured more than once on the same machine: the last time counts")
    return list(newest.values())


def _warnings_about(jobs: Iterable[Job]) -> Iterator[str]:
    artifacts = {job.artifact.seal: job.artifact for job in jobs}.values()
    names = [artifact.name for artifact in artifacts]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield (
            f"several artifacts are called {name}, and each is chosen for alone, since their vectors may differ; "
            "to compare machines, copy one folder to all of them instead of exporting there"
        )
    for artifact in artifacts:
        if artifact.random:
            yield f"the weights of {artifact.name} are random: its times are right, its vectors mean nothing"


def _offers(entries: Iterable[_Entry]) -> Iterator[Offer]:
    ordered = sorted(entries, key=lambda entry: (entry.offer, entry.case.items))
    for (machine, *_), group in groupby(ordered, key=lambda entry: entry.offer):
        measured = tuple(group)
        yield Offer(
            machine=machine,
            label=measured[0].case.label,
            candidates=tuple(_candidate(measured[: count + 1]) for count in range(len(measured))),
        )


def _candidate(measured: Sequence[_Entry]) -> Candidate:
    return Candidate(
        machine=measured[0].machine,
        label=measured[0].case.label,
        batch=measured[-1].case.items,
        cases=tuple(entry.case for entry in measured),
        stable=all(entry.stable for entry in measured),
    )


def _check_machines(files: Sequence[tuple[Path, Results]]) -> None:
    """Sees that a name stands for one machine.

    Raises:
        ResultsError: Two machines are called the same.
    """
    seen: dict[str, tuple[Path, BenchmarkMachine]] = {}
    for path, results in files:
        machine = results.machine
        first, other = seen.setdefault(machine.name, (path, machine))
        names = ("cpu", "architecture", "cores_allowed", "cpu_quota", "threads", "gpus")
        faults = [name for name in names if getattr(machine, name) != getattr(other, name)]
        if faults:
            raise ResultsError(
                f"{first} and {path} are both of a machine called {machine.name}, which differ in {', '.join(faults)}; "
                "measure with another --machine NAME on one of them, and give each its price"
            )
