"""Read how fast a machine embeds from benchmarks, the reports of ``python -m benchmarks ARTIFACT``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import cast

from benchmarks.choose.candidates import Candidate, Task, check_machines, sort_by_task
from benchmarks.results.items import check_items, doubt_texts, warn_of_built_in
from benchmarks.results.schema import Artifact, Case, Results, ResultsError, read_results
from benchmarks.results.statistics import summarize
from runtime.artifact.manifest import TowerName

_NO_COSINE = "not compared with torch; measure where torch is installed, and name the weights with --weights"


def find_jobs(paths: Sequence[Path], artifact: str | None) -> tuple[dict[Task, tuple[Candidate, ...]], list[str]]:
    """Return the setups that the reports measured end to end, by task, and warnings about them.

    Of each setup, the case with the most items per call counts: a job embeds many at once.

    Raises:
        ResultsError: A report cannot be read, reports contradict each other or have other items, or none has a case
            of the stage ``end_to_end``.
        UsageError: No case has that artifact.
    """
    reports = {path: read_results(path) for path in paths}
    found = [each for path, results in reports.items() for each in _candidates(path, results)]
    if not found:
        raise ResultsError(
            "no case was measured end to end (stage end_to_end); "
            "measure both stages with `python -m benchmarks ARTIFACT -o REPORT`"
        )
    check_machines(found)
    tasks, doubts = sort_by_task(found, artifact)
    doubts += [doubt for each in tasks.items() for doubt in _compare_items(*each, reports)]
    incomplete = [f"{path} is incomplete: it lacks cases" for path, results in reports.items() if not results.complete]
    unused = [doubt for results in reports.values() for doubt in _unused(results)]
    return tasks, list(dict.fromkeys([*incomplete, *doubts, *unused]))


def _candidates(path: Path, results: Results) -> Iterator[Candidate]:
    artifacts = {artifact.name: artifact for artifact in results.artifacts}
    cases = [case for case in results.cases if case.stage == "end_to_end"]
    for case in cases:
        if case.artifact not in artifacts:
            raise ResultsError(f"{path} has cases of {case.artifact}, but no description of it; measure again")
    for _, group in groupby(sorted(cases, key=lambda case: case.key), key=lambda case: case.key[:5]):
        *_, largest = group
        yield _candidate(path, results, largest, artifacts[largest.artifact])


def _candidate(path: Path, results: Results, case: Case, artifact: Artifact) -> Candidate:
    times = [seconds for turn in case.rounds for seconds in turn]
    summary = summarize(case, results.confidence, results.precision) if case.items > 0 and sum(times) > 0 else None
    calls = f"{case.items} item{'s' * (case.items > 1)} per call"
    options = case.runtime_options
    return Candidate(
        path=path,
        date=results.date,
        task=Task(artifact=artifact.name, work=case.tower, vectors=artifact.seal[:8]),
        machine=results.machine,
        setup=case.label,
        command=f"python -m runtime embed ARTIFACT INPUT -o OUTPUT {options}" if options else "",
        per_s=summary.items_per_s if summary else 0.0,
        fault="" if summary else "no valid times; measure again",
        min_cosine=case.torch_cosine,
        no_cosine=_NO_COSINE,
        remark=", ".join(filter(None, (calls, summary.warning if summary else ""))),
    )


def _compare_items(task: Task, candidates: Sequence[Candidate], reports: Mapping[Path, Results]) -> Iterator[str]:
    tower = cast(TowerName, task.work)
    used = {str(each.path): reports[each.path] for each in candidates}
    check_items(used, [tower])
    yield from filter(None, [warn_of_built_in(used.values(), tower)])
    if tower == "text":
        yield from filter(None, [doubt_texts(used.values())])
    if any(each.random for results in used.values() for each in results.artifacts if each.name == task.artifact):
        texts = "; a stand-in tokenizer may make more tokens of a text than a real one, which takes longer"
        yield f"the weights of {task.artifact} are random: its vectors have no meaning{texts * (tower == 'text')}"


def _unused(results: Results) -> Iterator[str]:
    """Yield the parts of a machine that were not used, although the price is that of the whole."""
    machine = results.machine
    cores = math.ceil(min(machine.cores_allowed, machine.cpu_quota or math.inf))
    if machine.threads < cores:
        yield f"{machine.threads} of the {cores} cores of {machine.name} were used; measure with all of them"
    if len(machine.gpus) > 1 and any(case.device == "cuda" for case in results.cases):
        yield f"1 of the {len(machine.gpus)} GPUs of {machine.name} was used, at the price of all of them"
