"""Run a plan: measure each group, keep results as they come, and resume an interrupted run."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import torch as torch_contender
from benchmarks.contenders.protocol import Target
from benchmarks.contenders.runtime import baseline_setup
from benchmarks.measure.group import CaseGroup, Reference, embed_alone, measure_group
from benchmarks.measure.parity import measure_parity
from benchmarks.measure.plan import BenchmarkPlan
from benchmarks.measure.rounds import TimingOptions
from benchmarks.measure.workload import Workload, load_items
from benchmarks.results.schema import Results, ResultsError, Skipped
from runtime.errors import EmbeddingBackbonesError, UsageError

SMALL_BYTES = 120 * 10**6  # maximum size of an fp32 graph for a reference in float64
_OTHER_WEIGHTS = 0.999  # a smaller cosine similarity means other weights; rounding errors are far smaller


def measure_plan(
    remaining: Sequence[CaseGroup],
    results: Results,
    options: TimingOptions,
    own_items: Mapping[str, Path],
    on_group: Callable[[Results], None],
    announce: Callable[[str], None],
) -> Results:
    """Measure ``remaining`` and return ``results`` with their cases, which replace older cases of these groups.

    Args:
        remaining: Groups to measure, ordered by target.
        results: Results so far.
        options: Options of the timing.
        own_items: Files or folders of the user's items by kind; other kinds use built-in items.
        on_group: Function that is called with the results after each group.
        announce: Function that is called with the name of each step before it starts.

    Raises:
        EmbeddingBackbonesError: An artifact cannot be measured, for example because ``--weights`` names other weights.
    """
    for target, groups in itertools.groupby(remaining, key=lambda group: group.target):
        with tempfile.TemporaryDirectory(prefix="embedding-backbones-") as folder:
            scratch = Path(folder)
            workload = Workload(target, load_items(target.tower, own_items.get(target.tower), scratch))
            announce(f"{target.manifest.name}, {target.tower}: reference")
            reference, skipped = make_reference(target, workload, options, scratch)
            results = replace(results, skipped=_merge(results.skipped, skipped))
            for group in groups:
                announce(str(group))
                cases, skipped = measure_group(group, workload, reference, options, scratch)
                others = (case for case in results.cases if not group.includes(case))
                before = [each for each in results.skipped if not each.name.startswith(f"{group}: ")]
                results = replace(results, cases=(*others, *cases), skipped=_merge(before, skipped))
                on_group(results)
    return replace(results, complete=True)


def make_reference(
    target: Target, workload: Workload, options: TimingOptions, scratch: Path
) -> tuple[Reference, list[Skipped]]:
    """Return reference vectors for parity: torch embeds each item alone, in float64 if the graph is small.

    Without torch, the vectors of the fp32 graph are the reference. The export compared this graph with torch.

    Raises:
        UsageError: torch has other weights than the artifact.
    """
    graph_vectors = embed_alone(baseline_setup(target), workload, options, scratch)
    graph = target.manifest.files[target.manifest.towers[target.tower].graph]
    mode = "float64" if graph.size_bytes <= SMALL_BYTES else "eager"
    reason = torch_contender.unavailable_reason(target)
    try:
        if reason:
            raise EmbeddingBackbonesError(reason)
        vectors = embed_alone(torch_contender.make_setup(target, mode, "cpu"), workload, options, scratch)
    except EmbeddingBackbonesError as exc:
        skipped = Skipped(name=f"{target.manifest.name}, {target.tower}: torch as the reference", reason=str(exc))
        return Reference(name="the graph in fp32 on cpu, each item alone", vectors=graph_vectors), [skipped]
    name = f"torch in {'float64' if mode == 'float64' else 'fp32'}, each item alone"
    parity = measure_parity(vectors, graph_vectors, workload.parity_items.names, name)
    if not parity.min_cosine >= _OTHER_WEIGHTS:
        raise UsageError(
            f"the vectors of {target.manifest.name} differ from those of torch with the weights {target.weights} "
            f"(cosine {parity.min_cosine:.4f}); name the weights of the export: --weights {target.manifest.name}=..."
        )
    return Reference(name=name, vectors=vectors), []


def check_resumable(found: Results, fresh: Results) -> None:
    """Check that a run with the conditions of ``fresh`` may add to ``found``.

    Raises:
        ResultsError: Machine, artifacts or the precision of the intervals differ.
    """
    was, now = (replace(each.machine, load_average=()) for each in (found, fresh))
    differing = [each.name for each in dataclasses.fields(was) if getattr(was, each.name) != getattr(now, each.name)]
    if differing:
        raise ResultsError(
            f"the existing results are from another machine (different: {', '.join(differing)}); name another folder"
        )
    seals = {artifact.name: artifact.seal for artifact in fresh.artifacts}
    changed = [each.name for each in found.artifacts if seals.get(each.name, each.seal) != each.seal]
    if changed:
        raise ResultsError(f"{', '.join(changed)} changed since the existing results; name another folder")
    if (found.confidence, found.precision) != (fresh.confidence, fresh.precision):
        raise ResultsError(
            f"the existing results have --confidence {found.confidence} --half-width {found.precision}; "
            "give the same values or name another folder"
        )


def merge_results(found: Results, fresh: Results) -> Results:
    """Return ``found`` with the artifacts, skipped cases and command of ``fresh`` added."""
    artifacts = {each.name: each for each in (*found.artifacts, *fresh.artifacts)}
    skipped = _merge(found.skipped, fresh.skipped)
    return replace(found, artifacts=tuple(artifacts.values()), skipped=skipped, command=fresh.command, complete=False)


def _merge(old: Sequence[Skipped], new: Sequence[Skipped]) -> tuple[Skipped, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def find_remaining(plan: BenchmarkPlan, results: Results, *, redo_disturbed: bool) -> list[CaseGroup]:
    """Return the groups of ``plan`` that have no case in ``results``, or, on demand, a disturbed case."""
    found = [(group, [case for case in results.cases if group.includes(case)]) for group in plan.groups]
    return [group for group, cases in found if not cases or (redo_disturbed and any(c.disturbed for c in cases))]
