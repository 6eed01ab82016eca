"""Tell whether the vectors of two artifacts, or of an artifact and a file, may be compared with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.artifact.manifest import MANIFEST_FILE, TowerName
from runtime.artifact.parity import format_cosine, row_cosines
from runtime.artifact.reader import read_manifest
from runtime.artifact.space import list_facts, parent_space, space_of
from runtime.artifact.variants import VariantName
from runtime.errors import ProviderError, UsageError
from runtime.inference.embedder import Embedder
from runtime.inference.truncation import without_truncation_warning
from runtime.jobs.origin import read_origin
from runtime.loading.golden import find_tolerance
from runtime.loading.golden_file import read_golden
from runtime.loading.load import load

_ABSENT = "-"
_SHOWN = 80  # characters of a fact


@dataclass(frozen=True, kw_only=True)
class Side:
    """An artifact with the variant that runs, or a file of vectors.

    Attributes:
        path: The artifact or the file.
        space: Name of its space; ``None`` for a file that names none.
        facts: The facts that determine the space, as JSON by name; empty without a name.
        model: The loaded artifact; ``None`` for a file, or if the artifact cannot run here.
        notes: Remarks on its vectors.
    """

    path: Path
    space: str | None
    facts: Mapping[str, str]
    model: Embedder | None = None
    notes: Sequence[str] = ()

    def named(self) -> dict[str, str]:
        """Return the facts, and how the vectors are quantized if they are."""
        _, _, quantized = (self.space or "").partition(".")
        return {**self.facts, **({"quantized": quantized} if quantized else {})}


@dataclass(frozen=True, kw_only=True)
class GoldenDistance:
    """The smallest cosine similarity of two sides on golden items of one tower, and the smallest that both accept."""

    tower: TowerName
    items: int
    min_cosine: float
    floor: float

    @property
    def is_close(self) -> bool:
        """Whether the vectors are equal within what both sides accept."""
        return self.min_cosine >= self.floor


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdict on two sides, its reason, the facts that differ, and the distances where both sides run here."""

    comparable: bool | None  # None if nothing shows it
    reason: str
    sides: tuple[Side, Side]
    differences: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    golden: Sequence[GoldenDistance] = ()


def compare_spaces(
    one: Path, other: Path, *, variant: VariantName = "fp32", other_variant: VariantName = "fp32"
) -> Comparison:
    """Compare an artifact with another one, or with the output of an embedding job.

    Args:
        one: Folder of the artifact.
        other: Folder of the other artifact, or the output.
        variant: The variant of the artifact that runs.
        other_variant: The variant of the other artifact that runs.

    Raises:
        UsageError: ``other`` is neither, or there is no such variant.
        ArtifactError: An artifact is damaged.
    """
    is_artifact = (other / MANIFEST_FILE).is_file()
    right = _open_artifact(other, other_variant) if is_artifact else _open_file(other)
    sides = (_open_artifact(one, variant), right)
    differences = _differences(*sides)
    golden = list(_measure(*sides))
    comparable, reason = _judge(sides, golden)
    return Comparison(comparable=comparable, reason=reason, sides=sides, differences=differences, golden=golden)


def describe_comparison(comparison: Comparison) -> str:
    """Return a comparison as text, one fact a line."""
    sides = comparison.sides
    verdict = {True: "yes", False: "NO", None: "unknown"}[comparison.comparable]
    lines = [f"comparable    {verdict}: {comparison.reason}"]
    lines += [f"space         {side.space or 'unknown'}  {side.path}" for side in sides]
    lines += [
        f"differs       {name}: {one:.{_SHOWN}} and {other:.{_SHOWN}}"
        for name, (one, other) in comparison.differences.items()
    ]
    lines += [
        f"golden        {each.tower}: min cosine {format_cosine(each.min_cosine)} on {each.items} items "
        f"(equal from {format_cosine(each.floor)})"
        for each in comparison.golden
    ]
    return "\n".join(lines + [f"note          {side.path}: {note}" for side in sides for note in side.notes])


def _open_artifact(folder: Path, variant: VariantName) -> Side:
    manifest = read_manifest(folder)
    space, notes = space_of(manifest, dict.fromkeys(manifest.towers, variant)), list[str]()
    try:
        model = load(folder, provider="cpu", variant=variant)
    except ProviderError as exc:
        model, notes = None, [f"it does not run here ({exc})"]
    return Side(path=folder, space=space, facts=list_facts(manifest), model=model, notes=notes)


def _open_file(path: Path) -> Side:
    if not path.exists():
        raise UsageError(f"there is no artifact and no file of vectors {path}")
    origin = read_origin(path)
    if origin is None:
        return Side(path=path, space=None, facts={})
    notes = [
        f"made by {origin.artifact}, variant {origin.variant}, stored as {origin.dtype}",
        f"made with the prompt {origin.prompt!r:.80}" if origin.prompt else "",
        f"only the first {origin.truncate_dim} dimensions are stored; compare as many" if origin.truncate_dim else "",
    ]
    return Side(path=path, space=origin.space, facts=origin.facts, notes=[*filter(None, notes)])


def _differences(one: Side, other: Side) -> dict[str, tuple[str, str]]:
    """Return the facts that differ, with both values; none if a side names no space."""
    facts = one.named(), other.named()
    names = set(facts[0]) | set(facts[1]) if all(facts) else set()
    pairs = {name: (facts[0].get(name, _ABSENT), facts[1].get(name, _ABSENT)) for name in sorted(names)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _measure(one: Side, other: Side) -> Iterator[GoldenDistance]:
    """Embed the golden items of one side by both, for each tower that both have."""
    if one.model is None or other.model is None or one.model.output_dim != other.model.output_dim:
        return
    for tower in one.model.towers:
        if tower not in other.model.towers:
            continue
        items, _ = read_golden(one.path, one.model.manifest, tower)
        with without_truncation_warning():
            vectors = [model.embed(items, tower=tower) for model in (one.model, other.model)]
        yield GoldenDistance(
            tower=tower,
            items=len(items),
            min_cosine=float(row_cosines(*vectors).min()),
            floor=min(find_tolerance(model, tower).min_cosine for model in (one.model, other.model)),
        )


def _judge(sides: tuple[Side, Side], golden: Sequence[GoldenDistance]) -> tuple[bool | None, str]:
    """Return whether vectors may be compared, and why."""
    one, other = (side.space for side in sides)
    if one is None or other is None:
        return None, "the file names no space, so nothing tells what made its vectors"
    if one == other:
        if all(each.is_close for each in golden):
            return True, "both are of the same space"
        return False, "the names of the spaces are equal, but not the golden vectors; run `python -m runtime verify`"
    if parent_space(one) == parent_space(other):
        return False, "they are of one model, but quantized differently; run the same variant on both sides"
    return False, "they are of different spaces"
