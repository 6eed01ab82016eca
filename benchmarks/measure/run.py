"""One run of the benchmark: every group in turn, written down as it is measured, so that it can be gone on with."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contenders import torch as with_torch
from benchmarks.contenders.protocol import Subject, Way
from benchmarks.contenders.runtime import plain_way
from benchmarks.measure.parity import judge
from benchmarks.measure.plan import Plan
from benchmarks.measure.rounds import Effort, Group, Reference, embed_judged, measure_group
from benchmarks.measure.workload import Material, load_items
from benchmarks.results.schema import Case, Results, ResultsError, Skipped
from runtime.errors import EmbeddingBackbonesError, UsageError

SMALL_BYTES = 120 * 10**6  # of a graph in float32, up to which torch computes the reference in float64
_SURELY_WRONG = 0.999  # cosine similarity below which the weights are others, and not the rounding
OnGroup = Callable[[Results], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a plan is measured.

    Attributes:
        effort: How much.
        items: The user's own items, by kind; those that every machine has for the others.
    """

    effort: Effort
    items: dict[str, Path]


def measure_plan(
    left: Sequence[Group],
    results: Results,
    settings: Settings,
    on_group: OnGroup,
    say: Callable[[str], None],
) -> Results:
    """Measures ``left``, and puts it in the place of what ``results`` may have of it.

    Args:
        left: What is to be measured, that of each tower together.
        results: What is there already.
        settings: How.
        on_group: Is given the results so far, after each group.
        say: Is told of each group before it begins.

    Raises:
        EmbeddingBackbonesError: Nothing right can be measured of an artifact: its torch weights are others, say.
    """
    for subject, groups in itertools.groupby(left, key=lambda group: group.subject):
        with tempfile.TemporaryDirectory(prefix="embedding-backbones-") as scratch:
            items = load_items(subject.tower, settings.items.get(subject.tower), Path(scratch))
            material = Material(subject, items)
            say(f"{subject.manifest.name}, {subject.tower}: reference")
            reference, skipped = make_reference(subject, material, settings.effort, Path(scratch))
            results = replace(results, skipped=_merge(results.skipped, skipped))
            for group in groups:
                say(str(group))
                cases, skipped = measure_group(group, material, reference, settings.effort, Path(scratch))
                others = (case for case in results.cases if not group.is_of(case))
                before = [each for each in results.skipped if not each.name.startswith(f"{group}: ")]
                results = replace(results, cases=(*others, *cases), skipped=_merge(before, skipped))
                on_group(results)
    return replace(results, complete=True)


def make_reference(
    subject: Subject, material: Material, effort: Effort, scratch: Path
) -> tuple[Reference, list[Skipped]]:
    """Returns the vectors that all others are held against: torch's, of each item alone, in float64 for a small graph.

    Where torch cannot be had, those of the graph as it was exported, which were held against torch then.

    Raises:
        UsageError: torch has other weights than the artifact.
    """
    plain = embed_judged(plain_way(subject), material, effort, scratch)
    graph = subject.manifest.files[subject.manifest.towers[subject.tower].graph]
    variant = "float64" if graph.size_bytes <= SMALL_BYTES else "eager"
    way, reason = _torch_way(subject, variant)
    if way is None:
        name = "the graph in fp32 on cpu, each item alone"
        return Reference(name=name, vectors=plain), [Skipped(name=_name(subject), reason=reason)]
    try:
        vectors = embed_judged(way, material, effort, scratch)
    except EmbeddingBackbonesError as exc:
        name = "the graph in fp32 on cpu, each item alone"
        return Reference(name=name, vectors=plain), [Skipped(name=_name(subject), reason=str(exc))]
    name = f"torch in {'float64' if variant == 'float64' else 'fp32'}, each item alone"
    parity = judge(vectors, plain, material.judged.names, name)
    if not parity.min_cosine >= _SURELY_WRONG:
        raise UsageError(
            f"{subject.manifest.name}'s graph and torch with the weights {subject.weights} are far apart (cosine "
            f"{parity.min_cosine:.4f}); name those that it was exported with: --weights {subject.manifest.name}=..."
        )
    return Reference(name=name, vectors=vectors), []


def _torch_way(subject: Subject, variant: str) -> tuple[Way | None, str]:
    obstacle = with_torch.find_obstacle(subject)
    return (None, obstacle) if obstacle else (with_torch.make_way(subject, variant, "cpu"), "")


def _name(subject: Subject) -> str:
    return f"{subject.manifest.name}, {subject.tower}: torch as the reference"


def check_resumable(found: Results, fresh: Results) -> None:
    """Makes sure that what was measured before can stand beside what is measured now.

    Raises:
        ResultsError: It was on another machine, or of other artifacts.
    """
    was, now = (replace(each.machine, load_average=()) for each in (found, fresh))
    if was != now:
        differing = [
            field.name for field in dataclasses.fields(was) if getattr(was, field.name) != getattr(now, field.name)
        ]
        raise ResultsError(
            f"the results there are of another machine ({', '.join(differing)} differ); measure into another folder"
        )
    seals = {artifact.name: artifact.seal for artifact in fresh.artifacts}
    changed = [each.name for each in found.artifacts if seals.get(each.name, each.seal) != each.seal]
    if changed:
        raise ResultsError(f"{', '.join(changed)} has changed since it was measured; measure into another folder")
    if (found.confidence, found.precision) != (fresh.confidence, fresh.precision):
        raise ResultsError(
            "the results there aimed at another --confidence or --precision; measure into another folder"
        )


def join(found: Results, fresh: Results) -> Results:
    """Returns ``found`` with the artifacts of ``fresh`` besides its own, and its command."""
    artifacts = {each.name: each for each in (*found.artifacts, *fresh.artifacts)}
    skipped = _merge(found.skipped, fresh.skipped)
    return replace(found, artifacts=tuple(artifacts.values()), skipped=skipped, command=fresh.command, complete=False)


def _merge(old: Sequence[Skipped], new: Sequence[Skipped]) -> tuple[Skipped, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def find_left(plan: Plan, results: Results, *, redo_disturbed: bool) -> list[Group]:
    """Returns the groups of ``plan`` of which ``results`` has no case, or one that has to be measured again."""
    return [
        group
        for group in plan.groups
        if _is_left([case for case in results.cases if group.is_of(case)], redo_disturbed)
    ]


def _is_left(found: Sequence[Case], redo_disturbed: bool) -> bool:
    return not found or (redo_disturbed and any(case.disturbed for case in found))
