"""What is to be measured: the artifacts, their towers, and which contenders meet at which piece of work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders.protocol import Subject, Way
from benchmarks.contenders.registry import CONTENDERS, find_ways
from benchmarks.measure.rounds import Group
from benchmarks.results.schema import Artifact, Skipped, Stage
from runtime.artifact.manifest import SEAL, Manifest
from runtime.artifact.reader import read_manifest
from runtime.errors import ProviderError, UsageError
from runtime.loading.verify import verify
from runtime.session.providers import available_providers, find_provider, find_provider_obstacle

_STAGES: tuple[Stage, ...] = ("graph", "end_to_end")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user may choose of the plan.

    Attributes:
        providers: Execution providers; ``None`` for all that are active.
        batch_sizes: Items of a call, at both stages.
        tokens: Lengths of texts at the stage of the graph.
        stages: Which of both.
        contenders: Which of them; ``name`` for all its ways, ``name:variant`` for one of them.
        weights: What the exports were given as ``--weights``, by artifact.
        pythons: Interpreters of other environments, by what they are for.
    """

    providers: tuple[str, ...] | None = None
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    tokens: tuple[int, ...] = (64,)
    stages: tuple[Stage, ...] = _STAGES
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    weights: Mapping[str, str] = field(default_factory=dict)
    pythons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what cannot be measured."""
        unknown = sorted({name.partition(":")[0] for name in self.contenders} - CONTENDERS.keys())
        if unknown:
            raise UsageError(f"there is no contender {', '.join(unknown)}; known are {', '.join(CONTENDERS)}")
        if min(self.batch_sizes) < 1 or min(self.tokens) < 3:
            raise UsageError("batch sizes must be 1 or more, numbers of tokens 3 or more")

    def wants(self, way: Way) -> bool:
        """Tells whether ``way`` is among what was chosen."""
        return way.contender in self.contenders or f"{way.contender}:{way.variant}" in self.contenders


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is to be measured.

    Attributes:
        artifacts: What is embedded with.
        subjects: Their towers.
        groups: The pieces of work, in order.
        skipped: What cannot be measured here.
    """

    artifacts: tuple[Artifact, ...]
    subjects: tuple[Subject, ...]
    groups: tuple[Group, ...]
    skipped: tuple[Skipped, ...]


def make_plan(folders: Sequence[Path], choices: Choices) -> Plan:
    """Returns what is to be measured of the artifacts in ``folders``, each of which is verified first.

    Raises:
        VerificationError: An artifact does not give its golden vectors here.
        ProviderError: A provider that is named is not active; it would not be measured as another one.
        UsageError: A choice does not fit the artifacts.
    """
    manifests = [read_manifest(folder) for folder in folders]
    _check_names([manifest.name for manifest in manifests], choices)
    providers = _find_providers(choices)
    for folder in folders:
        verify(folder, provider="cpu", variant="fp32")
    subjects = [
        Subject(
            folder=folder,
            manifest=manifest,
            tower=tower,
            weights=_find_weights(manifest, choices.weights),
            providers=providers,
            pythons=choices.pythons,
        )
        for folder, manifest in zip(folders, manifests, strict=True)
        for tower in manifest.towers
    ]
    groups: list[Group] = []
    skipped: list[Skipped] = []
    for subject in subjects:
        ways, missing = find_ways(subject, tuple(dict.fromkeys(name.partition(":")[0] for name in choices.contenders)))
        groups += _make_groups(subject, [way for way in ways if choices.wants(way)], choices)
        skipped += missing
    return Plan(
        artifacts=tuple(map(describe_artifact, manifests)),
        subjects=tuple(subjects),
        groups=tuple(groups),
        skipped=tuple(skipped),
    )


def describe_artifact(manifest: Manifest) -> Artifact:
    """Returns what a report says of an artifact."""
    return Artifact(
        name=manifest.name,
        backbone=manifest.backbone,
        task=manifest.task,
        architecture=manifest.architecture,
        output_dim=manifest.output_dim,
        weights=manifest.weights.description,
        random=manifest.weights.origin == "random",
        seal=str(json.loads(manifest.to_json())[SEAL]),
    )


def _check_names(names: Sequence[str], choices: Choices) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two artifacts are called {', '.join(twice)}; export one under another --name")
    strange = sorted(choices.weights.keys() - set(names))
    if strange:
        raise UsageError(f"--weights names {', '.join(strange)}, the artifacts are {', '.join(names)}")


def _find_providers(choices: Choices) -> tuple[str, ...]:
    if choices.providers is None:
        usable = [
            provider.name
            for provider in available_providers()
            if provider.in_auto and not find_provider_obstacle(provider)
        ]
        return tuple(dict.fromkeys([*usable, *choices.pythons.keys() & {"openvino", "cuda"}]))
    for name in choices.providers:
        obstacle = find_provider_obstacle(find_provider(name))
        if obstacle and name not in choices.pythons:
            raise ProviderError(obstacle)
    return choices.providers


def _find_weights(manifest: Manifest, named: Mapping[str, str]) -> str | None:
    if manifest.name in named:
        return named[manifest.name]
    if manifest.weights.origin == "random":
        return f"random:{manifest.weights.seed}"
    return "pretrained" if manifest.weights.origin == "pretrained" else None


def _make_groups(subject: Subject, ways: Sequence[Way], choices: Choices) -> list[Group]:
    groups = []
    for stage in choices.stages:
        mine = tuple(way for way in ways if stage in way.stages)
        for tokens in _lengths(subject, stage, choices.tokens):
            groups += [
                Group(subject=subject, stage=stage, items=items, tokens=tokens, ways=mine)
                for items in choices.batch_sizes
                if mine
            ]
    return groups


def _lengths(subject: Subject, stage: Stage, tokens: Sequence[int]) -> Sequence[int | None]:
    """Returns the lengths of texts at which a tower is measured: those that it takes."""
    preprocessing = subject.manifest.towers[subject.tower].preprocessing
    if stage == "end_to_end" or preprocessing.kind != "text":
        return (None,)
    return tuple(dict.fromkeys(min(length, preprocessing.max_length) for length in tokens))
