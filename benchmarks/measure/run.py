"""Run a plan: measure each group, keep results as they come, and resume an interrupted run."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.contenders import torch as torch_contender
from benchmarks.contenders.protocol import Target
from benchmarks.contenders.runtime import baseline_setup
from benchmarks.measure.group import CaseGroup, Reference, embed_alone, measure_group
from benchmarks.measure.parity import measure_parity
from benchmarks.measure.plan import BenchmarkPlan
from benchmarks.measure.rounds import TimingOptions
from benchmarks.measure.workload import Items, Workload, load_items
from benchmarks.results.differences import find_differences
from benchmarks.results.schema import PlanRecord, Results, ResultsError, Skipped
from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError, UsageError

SMALL_BYTES = 120 * 10**6  # maximum size of an fp32 graph for a reference in float64
_OTHER_WEIGHTS = 0.999  # a smaller cosine similarity means other weights; rounding errors are far smaller


def measure_plan(
    remaining: Sequence[CaseGroup],
    results: Results,
    options: TimingOptions,
    own_items: Mapping[TowerName, Items],
    on_group: Callable[[Results], None],
    announce: Callable[[str], None],
) -> Results:
    """Measure ``remaining`` and return ``results`` with their cases, which replace older cases of these groups.

    Args:
        remaining: Groups to measure. Neighbours with the same target share its reference.
        results: Results so far.
        options: Options of the timing.
        own_items: The user's items by kind; other kinds use built-in items.
        on_group: Function that is called with the results after each group.
        announce: Function that is called with the name of each step before it starts.

    Raises:
        EmbeddingBackbonesError: An artifact cannot be measured, for example because ``--weights`` names other weights.
    """
    for target, groups in itertools.groupby(remaining, key=lambda group: group.target):
        # A file that cannot be removed must not replace an error, or the user's Ctrl-C.
        with tempfile.TemporaryDirectory(prefix="embedding-backbones-", ignore_cleanup_errors=True) as folder:
            scratch = Path(folder)
            workload = Workload(target, own_items.get(target.tower) or load_items(target.tower, scratch))
            announce(f"{target}: reference")
            reference, skipped = make_reference(target, workload, options, scratch)
            before = _without(results.skipped, _reference_of(target))
            results = replace(results, skipped=_merge(before, skipped))
            for group in groups:
                announce(str(group))
                cases, skipped = measure_group(group, workload, reference, options, scratch)
                others = (case for case in results.cases if not group.includes(case))
                before = _without(results.skipped, f"{group}: ")
                results = replace(results, cases=(*others, *cases), skipped=_merge(before, skipped))
                if group.stage == "end_to_end":
                    results = _with_timed_items(results, target, workload)
                on_group(results)
    return replace(results, complete=True)


def _with_timed_items(results: Results, target: Target, workload: Workload) -> Results:
    timed_items = results.timed_items | {target.tower: workload.timed_items}
    mean = workload.mean_tokens
    mean_tokens = results.mean_tokens if mean is None else results.mean_tokens | {target.manifest.name: mean}
    return replace(results, timed_items=timed_items, mean_tokens=mean_tokens)


def make_reference(
    target: Target, workload: Workload, options: TimingOptions, scratch: Path
) -> tuple[Reference, list[Skipped]]:
    """Return reference vectors for parity: torch embeds each item alone, in float64 if the graph is small.

    If torch cannot do that in float64, it does so in fp32. Without torch, the vectors of the fp32 graph are the
    reference, and :attr:`CaseParity.with_torch` is false.

    Raises:
        UsageError: torch has other weights than the artifact.
    """
    graph_vectors = embed_alone(baseline_setup(target), workload, options, scratch)
    found, skipped = _torch_reference(target, workload, options, scratch)
    if found is None:
        return Reference(name="the graph in fp32 on cpu, each item alone", vectors=graph_vectors), skipped
    parity = measure_parity(found.vectors, graph_vectors, workload.parity_items.names, found.name)
    if not parity.min_cosine >= _OTHER_WEIGHTS:
        raise UsageError(
            f"the vectors of {target.manifest.name} differ from those of torch with the weights {target.weights} "
            f"(cosine {parity.min_cosine:.4f}); name the weights of the export: --weights {target.manifest.name}=..."
        )
    return found, skipped


def _torch_reference(
    target: Target, workload: Workload, options: TimingOptions, scratch: Path
) -> tuple[Reference | None, list[Skipped]]:
    """Return torch's vectors in the highest precision that it can do, and the reasons against the others."""
    name = _reference_of(target)
    reason = torch_contender.unavailable_reason(target)
    if reason:
        return None, [Skipped(name=name, reason=reason)]
    graph = target.manifest.files[target.manifest.towers[target.tower].graph]
    modes = {"float64": "float64"} if graph.size_bytes <= SMALL_BYTES else {}
    skipped = []
    for mode, precision in (modes | {"eager": "fp32"}).items():
        try:
            vectors = embed_alone(torch_contender.make_setup(target, mode, "cpu"), workload, options, scratch)
        except EmbeddingBackbonesError as exc:
            skipped.append(Skipped(name=f"{name}, in {precision}", reason=str(exc)))
        else:
            return Reference(name=f"torch in {precision}, each item alone", vectors=vectors), skipped
    return None, skipped


def _reference_of(target: Target) -> str:
    return f"{target}: torch as the reference"


def check_resumable(found: Results, fresh: Results) -> None:
    """Check that a run with the conditions of ``fresh`` may add to ``found``.

    Raises:
        ResultsError: Machine, software, artifacts or options differ.
    """
    hardware, software = find_differences(found, fresh)
    differences = hardware | software
    options = {"name": "--machine", "threads": "--threads"}  # facts that options decide
    if found.environments.keys() != fresh.environments.keys():
        options["environments"] = "--python"
    if differences.keys() - options.keys():
        raise ResultsError(
            "the existing results are from another machine, or from other software "
            f"({'; '.join(differences.values())}); restore it, or name another folder"
        )
    seals = {artifact.name: artifact.seal for artifact in fresh.artifacts}
    changed = [each.name for each in found.artifacts if seals.get(each.name, each.seal) != each.seal]
    if changed:
        raise ResultsError(f"{', '.join(changed)} changed since the existing results; name another folder")
    if found.plan is None:
        raise ResultsError("the existing results are from an older version, without their options; name another folder")
    other = [*(options[name] for name in differences), *_differing_options(found, fresh)]
    if other:
        raise ResultsError(
            f"the existing results are from a run with other options (different: {', '.join(other)}); "
            f"repeat those of `{found.command}`, or name another folder"
        )


def _differing_options(found: Results, fresh: Results) -> list[str]:
    """Return the options that differ. Without any, all planned cases of one run are planned in the other."""
    was, now = (_effective(plan, {case.artifact for case in found.cases}) for plan in (found.plan, fresh.plan))
    names = [each.name for each in fields(PlanRecord) if getattr(was, each.name) != getattr(now, each.name)]
    others = {
        "ARTIFACT": {each.name for each in found.artifacts} != {each.name for each in fresh.artifacts},
        "--confidence": found.confidence != fresh.confidence,
        "--half-width": found.precision != fresh.precision,
    }
    return [*(name for name, differs in others.items() if differs), *(f"--{name.replace('_', '-')}" for name in names)]


def _effective(plan: PlanRecord | None, measured: Collection[str]) -> PlanRecord | None:
    """Return ``plan`` with the weights of artifacts that were measured. A wrong one of another can be mended."""
    return plan and replace(plan, weights={name: each for name, each in plan.weights.items() if name in measured})


def merge_results(found: Results, fresh: Results) -> Results:
    """Return ``found`` with the plan and the skipped cases of ``fresh``, to be completed.

    Skipped cases of an artifact whose weights changed are left out, because they may be possible now.
    """
    command = found.command if found.plan == fresh.plan else fresh.command
    kept: Sequence[Skipped] = found.skipped
    for name in _with_other_weights(found.plan, fresh.plan):
        kept = _without(_without(kept, f"{name}: "), f"{name}, ")
    return replace(
        found,
        schema_version=fresh.schema_version,
        plan=fresh.plan,
        command=command,
        skipped=_merge(kept, fresh.skipped),
        complete=False,
    )


def _with_other_weights(was: PlanRecord | None, now: PlanRecord | None) -> list[str]:
    """Return the names of the artifacts whose weights differ."""
    old, new = (plan.weights if plan else {} for plan in (was, now))
    return [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]


def _without(skipped: Sequence[Skipped], start: str) -> list[Skipped]:
    return [each for each in skipped if not each.name.startswith(start)]


def _merge(old: Sequence[Skipped], new: Sequence[Skipped]) -> tuple[Skipped, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def find_remaining(plan: BenchmarkPlan, results: Results, *, redo_disturbed: bool) -> list[CaseGroup]:
    """Return the groups of ``plan`` without a case in ``results``, then those to measure again.

    A group is measured again if a contender failed or, on demand, was disturbed: its contenders must share rounds.
    """
    found = [(group, [case for case in results.cases if group.includes(case)]) for group in plan.groups]
    missing = [group for group, cases in found if not cases]
    again = [
        group
        for group, cases in found
        if cases and (group.lacks_any(cases) or (redo_disturbed and any(case.disturbed for case in cases)))
    ]
    return missing + again
