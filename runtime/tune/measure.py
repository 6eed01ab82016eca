"""Measure every case in turn, round after round.

A case is a provider, a variant, a number of threads and a batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runtime.artifact.manifest import Manifest, TextPreprocessing, Tower, TowerName
from runtime.artifact.parity import format_cosine
from runtime.artifact.reader import check_files, read_manifest
from runtime.artifact.variants import VariantName
from runtime.console import progress_bar
from runtime.errors import EmbeddingBackbonesError, ProviderError, UsageError
from runtime.loading.golden_file import read_golden
from runtime.loading.tuning_store import LARGEST_BATCH, TuneSetting, describe_case
from runtime.machine.threads import available_threads
from runtime.session.provider_options import OPTIONS
from runtime.session.providers import ExecutionProvider, available_providers, find_provider, find_provider_obstacle
from runtime.session.session import count_concurrent_batches
from runtime.session.variant_selection import choose_graph, find_variant_obstacle
from runtime.tune.candidate import TuneCandidate
from runtime.tune.report import RefusedCase, TuneReport, summarize
from runtime.whole_number import is_whole

T = TypeVar("T")
Start = Callable[[Path, TowerName, TuneSetting], TuneCandidate]
_Turns = dict[tuple[TuneSetting, int], list[list[float]]]


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The cases to measure, and the bounds that the winner keeps."""

    max_latency_ms: float | None = None  # bound on the 95th percentile of the time of a call
    min_cosine: float | None = None  # bound on the cosine similarity to the golden vectors; ``None``: that of `verify`
    # Numbers of items of a batch; of texts, those of a call for each batch that may run side by side.
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    # Of one batch on ``cpu``, elsewhere of all; by default 1, half of the allowed number, and all allowed.
    threads: tuple[int, ...] | None = None
    provider: str = "auto"  # ``auto`` measures every provider that ``load`` tries
    tower: TowerName | None = None  # needed if the artifact has two towers
    rounds: int = 10  # turns of each case

    def __post_init__(self) -> None:
        if self.max_latency_ms is not None and not 0 < self.max_latency_ms < math.inf:
            raise UsageError(f"max_latency_ms is {self.max_latency_ms}, it must be above 0")
        if self.min_cosine is not None and not 0 <= self.min_cosine <= 1:
            raise UsageError(f"min_cosine is {self.min_cosine}, it must be from 0 to 1")
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}, it must be 1 or more")
        _check_numbers("batch_sizes", self.batch_sizes, LARGEST_BATCH)
        _check_numbers("threads", self.thread_counts(), available_threads())

    def thread_counts(self) -> tuple[int, ...]:
        """Return the numbers of threads to measure."""
        allowed = available_threads()
        return tuple(sorted({1, max(1, allowed // 2), allowed})) if self.threads is None else self.threads


def measure(folder: Path, options: TuneOptions, *, start: Start = TuneCandidate, progress: bool = False) -> TuneReport:
    """Measure a tower on this machine in every case.

    A call is ``embed`` of golden items, as arrays or strings, preprocessing included. It has all batches that run side
    by side: as many as the threads allow on the CPU, and the default number elsewhere.
    Each provider, variant and number of threads is loaded in its own process. All stay loaded and take turns, so that
    other load on the machine affects all alike. ``start`` starts a candidate for each setting.

    Raises:
        ArtifactError: The folder is not an artifact, or is damaged.
        ProviderError: The named provider cannot be used.
        UsageError: The artifact has no such tower, or it has two and none is named.
    """
    manifest = read_manifest(folder)
    tower = manifest.choose_tower(options.tower)
    check_files(folder, manifest)
    inputs = _describe_inputs(folder, manifest, tower)
    settings, refused = _list_settings(manifest.towers[tower], options)
    with ExitStack() as stack:
        loaded: dict[TuneSetting, tuple[TuneCandidate, float]] = {}
        for setting in _watch(settings, "load", progress):
            candidate = start(folder, tower, setting)
            stack.callback(candidate.close)
            try:
                loaded[setting] = candidate, _load(candidate, options.min_cosine)
            except EmbeddingBackbonesError as exc:
                candidate.close()
                refused.append(RefusedCase(name=str(setting), reason=str(exc)))
        turns = _run_rounds(tower, {name: entry[0] for name, entry in loaded.items()}, options, refused, progress)
    measured = [summarize(setting, size, each, loaded[setting][1]) for (setting, size), each in turns.items()]
    return TuneReport(
        tower=tower,
        inputs=inputs,
        max_latency_ms=options.max_latency_ms,
        measured=tuple(sorted(measured, key=lambda case: -case.items_per_s)),
        refused=tuple(refused),
        default=_default_setting(manifest, tower, options),
    )


def _default_setting(manifest: Manifest, tower: TowerName, options: TuneOptions) -> TuneSetting | None:
    """Return what ``load`` takes without tuning; ``None`` if no provider can be used."""
    providers, _ = _find_providers(options.provider)
    if not providers:
        return None
    first = providers[0]
    choice = choose_graph(manifest.towers[tower], first, OPTIONS[first.name](), "auto", manifest.sha256)
    return _setting(first, choice.name, 1 if first.name == "cpu" else available_threads())


def _list_settings(tower: Tower, options: TuneOptions) -> tuple[list[TuneSetting], list[RefusedCase]]:
    """Return the settings to load, and the cases that are refused without a trial."""
    providers, refused = _find_providers(options.provider)
    settings = []
    for provider in providers:
        for name in ("fp32", *tower.variants):
            variant = tower.variants.get(name)
            obstacle = variant and find_variant_obstacle(variant, provider)
            if obstacle:
                refused.append(RefusedCase(name=f"{provider.name}, {name}", reason=obstacle))
                continue
            settings += [_setting(provider, name, threads) for threads in dict.fromkeys(options.thread_counts())]
    return settings, refused


def _setting(provider: ExecutionProvider, variant: VariantName, threads: int) -> TuneSetting:
    """Return the setting with ``threads`` for each batch on ``cpu``, elsewhere for the default number of batches."""
    shared = count_concurrent_batches(provider, OPTIONS[provider.name](), threads)
    batches = available_threads() // threads if provider.name == "cpu" else shared
    return TuneSetting(provider=provider.name, variant=variant, threads=threads, concurrent_batches=batches)


def _find_providers(asked: str) -> tuple[list[ExecutionProvider], list[RefusedCase]]:
    if asked != "auto":
        provider = find_provider(asked)
        obstacle = find_provider_obstacle(provider)
        if obstacle:
            raise ProviderError(obstacle)
        return [provider], []
    obstacles = {
        provider.name: find_provider_obstacle(provider) for provider in available_providers() if provider.in_auto
    }
    usable = [find_provider(name) for name, obstacle in obstacles.items() if obstacle is None]
    return usable, [RefusedCase(name=name, reason=reason) for name, reason in obstacles.items() if reason]


def _load(candidate: TuneCandidate, asked: float | None) -> float:
    cosine, floor = candidate.load()
    bound = floor if asked is None else asked
    if not cosine >= bound:  # true for NaN, too
        raise EmbeddingBackbonesError(
            f"its min cosine to the golden vectors is {format_cosine(cosine)}, below {format_cosine(bound)}; to accept "
            "it, lower --min-cosine"
        )
    return cosine


def _run_rounds(
    tower: TowerName,
    candidates: dict[TuneSetting, TuneCandidate],
    options: TuneOptions,
    refused: list[RefusedCase],
    progress: bool,
) -> _Turns:
    """Return the seconds of all turns. A case that fails is refused and gets no further turn."""
    cases = [(setting, size) for setting in candidates for size in dict.fromkeys(options.batch_sizes)]
    turns: _Turns = {case: [] for case in cases}
    for setting, size in _watch(list(_interleave(cases, options.rounds)), "measure", progress):
        if (setting, size) not in turns:
            continue
        try:
            turns[setting, size].append(candidates[setting].take_turn(size))
        except EmbeddingBackbonesError as exc:
            del turns[setting, size]
            refused.append(RefusedCase(name=describe_case(tower, setting, size), reason=str(exc)))
    return turns


def _interleave(cases: Sequence[T], rounds: int) -> Iterator[T]:
    """Yield all cases once in each round, in every other round backwards, so that the order of cases varies."""
    for number in range(rounds):
        yield from cases if number % 2 == 0 else reversed(cases)


def _describe_inputs(folder: Path, manifest: Manifest, tower: TowerName) -> str:
    items, _ = read_golden(folder, manifest, tower)
    return (
        f"{tower}: {len(items)} golden items {_describe_sizes(manifest.towers[tower], folder, items)}, repeated until "
        "a call is full"
    )


def _describe_sizes(tower: Tower, folder: Path, items: Sequence[Any]) -> str:
    if isinstance(tower.preprocessing, TextPreprocessing):
        from runtime.preprocess.text import TextPreprocessor, Tokens

        rows = TextPreprocessor(tower.preprocessing, folder).prepare_all(items)
        lengths = ", ".join(str(len(row.ids)) for row in rows if isinstance(row, Tokens))
        fixed = tower.preprocessing.padding == "max_length"
        padded = f"{tower.preprocessing.max_length} tokens" if fixed else "the longest of a batch"
        return f"of {lengths} tokens, padded to {padded}"
    shapes = ", ".join("x".join(map(str, item.shape[:-1])) for item in items)
    return f"of {shapes} {'pixels' if tower.preprocessing.kind == 'image' else 'points'}, as arrays"


def _check_numbers(name: str, numbers: Sequence[int], largest: int) -> None:
    wrong = [number for number in numbers if not is_whole(number, 1, largest)]
    if wrong or not numbers:
        raise UsageError(f"{name} are {list(wrong or numbers)}, they must be whole numbers from 1 to {largest}")


def _watch(things: Sequence[T], label: str, progress: bool) -> Iterator[T]:
    with progress_bar(total=len(things), unit="case", label=label, hidden=not progress, leave=False) as bar:
        for thing in things:
            yield thing
            bar.update()
