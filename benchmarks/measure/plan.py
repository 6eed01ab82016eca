"""Plan a benchmark: its artifacts, their towers, and the groups of cases to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders.environment import survey
from benchmarks.contenders.protocol import Setup, Target
from benchmarks.contenders.registry import CONTENDERS, PEERS, find_setups, variants_of
from benchmarks.measure.group import CaseGroup
from benchmarks.measure.rounds import TimingOptions
from benchmarks.measure.workload import Items
from benchmarks.results.schema import Artifact, OwnItems, PlanRecord, Skipped, Stage
from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.reader import read_manifest
from runtime.errors import ProviderError, UsageError
from runtime.loading.verify import verify
from runtime.session.providers import PROVIDERS, ExecutionProvider, find_provider, find_provider_obstacle


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of a plan."""

    providers: tuple[str, ...] | None = None  # execution providers; `None`: all that are active.
    batch_sizes: tuple[int, ...] = (1, 8, 32)  # items per call.
    tokens: tuple[int, ...] = (64,)  # lengths of texts at the stage `graph`.
    stages: tuple[Stage, ...] = ("graph", "end_to_end")
    contenders: tuple[str, ...] = tuple(CONTENDERS)  # contenders; `name` takes all variants, `name:variant` one.
    weights: Mapping[str, str] = field(default_factory=dict)  # values of `--weights` at export, by artifact.
    # interpreters of other environments, by contender or provider.
    pythons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if a contender, variant or environment is unknown, or a number is too small."""
        unknown = sorted({name.partition(":")[0] for name in self.contenders} - CONTENDERS.keys())
        if unknown:
            raise UsageError(f"there is no contender {', '.join(unknown)}; choose from {', '.join(CONTENDERS)}")
        for name, variant in self.named_variants:
            if variant not in variants_of(name):
                raise UsageError(f"{name} has no variant {variant!r}; choose from {', '.join(variants_of(name))}")
        strange = sorted(self.pythons.keys() - {*PEERS, *PROVIDERS})
        if strange:
            known = ", ".join(dict.fromkeys([*PEERS, *PROVIDERS]))
            raise UsageError(f"--python names {', '.join(strange)}; name a contender or provider: {known}")
        if min(self.batch_sizes) < 1 or min(self.tokens) < 3:
            raise UsageError("batch sizes must be 1 or more, numbers of tokens 3 or more")

    @property
    def named_variants(self) -> tuple[tuple[str, str], ...]:
        """Contender and variant of each `name:variant` among ``contenders``."""
        parted = (name.partition(":") for name in self.contenders)
        return tuple((name, variant) for name, colon, variant in parted if colon)

    def selects(self, setup: Setup) -> bool:
        """Tell whether ``contenders`` includes ``setup``."""
        return setup.contender in self.contenders or f"{setup.contender}:{setup.variant}" in self.contenders


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan:
    """Cases to measure."""

    artifacts: tuple[Artifact, ...]
    targets: tuple[Target, ...]
    groups: tuple[CaseGroup, ...]  # groups of cases, in order.
    skipped: tuple[Skipped, ...]  # cases that cannot be measured here.

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers of all targets."""
        return tuple(dict.fromkeys(provider for target in self.targets for provider in target.providers))

    def record(self, options: PlanOptions, timing: TimingOptions, own_items: Mapping[TowerName, Items]) -> PlanRecord:
        """Return the options of this plan for the results."""
        return PlanRecord(
            contenders=options.contenders,
            providers=self.providers,
            batch_sizes=options.batch_sizes,
            tokens=options.tokens,
            stages=options.stages,
            rounds=timing.min_rounds,
            seconds=timing.seconds,
            weights=dict(options.weights),
            items={kind: OwnItems(source=own.source, sha256=own.sha256()) for kind, own in own_items.items()},
        )


def make_plan(folders: Sequence[Path], options: PlanOptions) -> BenchmarkPlan:
    """Verify the artifacts in ``folders``, and plan the cases to measure.

    Raises:
        VerificationError: An artifact does not give its golden vectors here.
        ProviderError: A named provider is not active. No other provider replaces it.
        UsageError: An option does not fit the artifacts.
    """
    manifests = [read_manifest(folder) for folder in folders]
    _check_names([manifest.name for manifest in manifests], options)
    providers = _find_providers(options)
    for folder in folders:
        verify(folder, provider="cpu", variant="fp32")
    targets = [
        Target(
            folder=folder,
            manifest=manifest,
            tower=tower,
            weights=_find_weights(manifest, options.weights),
            providers=providers,
            pythons=options.pythons,
        )
        for folder, manifest in zip(folders, manifests, strict=True)
        for tower in manifest.towers
    ]
    groups: list[CaseGroup] = []
    skipped: list[Skipped] = []
    for target in targets:
        setups, missing = find_setups(target, _names(options))
        chosen = [setup for setup in setups if options.selects(setup) and target.admits(setup)]
        groups += _make_groups(target, chosen, options)
        skipped += [*missing, *_absent_variants(target, chosen, options), *_other_lengths(target, options)]
    return BenchmarkPlan(
        artifacts=tuple(map(describe_artifact, manifests)),
        targets=tuple(targets),
        groups=tuple(groups),
        skipped=tuple(skipped),
    )


def describe_artifact(manifest: Manifest) -> Artifact:
    """Return the record of an artifact for the results."""
    return Artifact(
        name=manifest.name,
        backbone=manifest.backbone,
        task=manifest.task,
        architecture=manifest.architecture,
        output_dim=manifest.output_dim,
        weights=manifest.weights.description,
        random=manifest.weights.origin == "random",
        seal=manifest.sha256,
    )


def _check_names(names: Sequence[str], options: PlanOptions) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two artifacts have the name {', '.join(twice)}; export one with another --name")
    unknown = sorted(options.weights.keys() - set(names))
    if unknown:
        raise UsageError(f"--weights names {', '.join(unknown)}, but the artifacts are {', '.join(names)}")


def _find_providers(options: PlanOptions) -> tuple[str, ...]:
    """Return the named providers, or else all that are active here or in an environment of ``pythons``.

    The name ``openvino`` of an environment means the contender, too. So the environment may lack the provider.
    """
    named = options.pythons.keys() & PROVIDERS.keys()
    wanted = options.providers or [each.name for each in PROVIDERS.values() if each.in_auto or each.name in named]
    needed = options.providers or named - {*_names(options)}
    obstacles = {name: _find_obstacle(find_provider(name), options.pythons) for name in wanted}
    for name, obstacle in obstacles.items():
        if obstacle and name in needed:
            raise ProviderError(obstacle)
    return tuple(name for name in wanted if not obstacles[name])


def _find_obstacle(provider: ExecutionProvider, pythons: Mapping[str, str]) -> str | None:
    """Return why ``provider`` cannot run, in the environment of its name or else here; ``None`` if it can."""
    python = pythons.get(provider.name)
    if python is None:
        return find_provider_obstacle(provider)
    packages = {each.package for each in PROVIDERS.values() if provider.name in ("cpu", each.name)}  # all have the cpu
    if packages & survey(python).packages.keys():
        return None
    missing = f"{provider.package} is not installed in the environment of {python}"
    return f"the provider {provider.name} cannot run: {missing}; run {python} -m pip install {provider.package}"


def _names(options: PlanOptions) -> tuple[str, ...]:
    """Return the names of the contenders, without their variants."""
    return tuple(dict.fromkeys(name.partition(":")[0] for name in options.contenders))


def _find_weights(manifest: Manifest, named: Mapping[str, str]) -> str | None:
    if manifest.name in named:
        return named[manifest.name]
    if manifest.weights.origin == "random":
        return f"random:{manifest.weights.seed}"
    return "pretrained" if manifest.weights.origin == "pretrained" else None


def _make_groups(target: Target, setups: Sequence[Setup], options: PlanOptions) -> list[CaseGroup]:
    groups = []
    for stage in options.stages:
        possible = tuple(setup for setup in setups if stage in setup.stages)
        for tokens in _lengths(target, stage, options.tokens):
            groups += [
                CaseGroup(target=target, stage=stage, items=items, tokens=tokens, setups=possible)
                for items in options.batch_sizes
                if possible
            ]
    return groups


def _absent_variants(target: Target, setups: Sequence[Setup], options: PlanOptions) -> list[Skipped]:
    """Return a record of each variant that the user named and that this tower does not have."""
    found = {(setup.contender, setup.variant) for setup in setups}
    return [
        Skipped(name=f"{target}: {name}:{variant}", reason="this tower has no such case on this machine")
        for name, variant in options.named_variants
        if (name, variant) not in found
    ]


def _lengths(target: Target, stage: Stage, tokens: Sequence[int]) -> Sequence[int | None]:
    """Return the lengths of texts to measure, limited to the maximum of the tower."""
    preprocessing = target.manifest.towers[target.tower].preprocessing
    if stage == "end_to_end" or preprocessing.kind != "text":
        return (None,)
    if preprocessing.padding == "max_length":
        return (preprocessing.max_length,)
    return tuple(dict.fromkeys(min(length, preprocessing.max_length) for length in tokens))


def _other_lengths(target: Target, options: PlanOptions) -> list[Skipped]:
    """Return a record of each length that this tower cannot have, and that another length replaces."""
    preprocessing = target.manifest.towers[target.tower].preprocessing
    if "graph" not in options.stages or preprocessing.kind != "text":
        return []
    rule = "always" if preprocessing.padding == "max_length" else "at most"
    reason = f"its texts have {rule} {preprocessing.max_length} tokens; this length was measured instead"
    missing = [length for length in options.tokens if length not in _lengths(target, "graph", options.tokens)]
    return [Skipped(name=f"{target}: graph with {length} tokens", reason=reason) for length in missing]
