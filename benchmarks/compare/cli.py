"""Run ``python -m benchmarks compare``: judge whether each case became faster or slower, for CI."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.compare.verdicts import CONFIDENCE, RESOLUTION, CaseChange, Comparison, compare, typical_s
from benchmarks.results.differences import find_differences
from benchmarks.results.items import doubt_texts
from benchmarks.results.schema import Case, Results, read_results
from runtime import console
from runtime.arguments import ArgumentParser, number, parse_path
from runtime.artifact.parity import format_cosine

_MOST_LISTED = 8
_HEADER = ["artifact", "tower", "setup", "stage", "batch size", "old ms", "new ms", "ratio", "verdict"]


def main(arguments: Sequence[str]) -> int:
    """Print the comparison. Return 1 for a slow or failed case, worse or unknown vectors, or no verdict; else 0."""
    return _compare(build_parser().parse_args(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parse_share = number(_to_share, "a share, written as 10% or 0.1", lambda share: share >= 0)
    parser = ArgumentParser(
        prog="python -m benchmarks compare",
        description="Compare two results of the same artifacts, and judge for each case whether it became faster or "
        "slower, or is not distinguishable. Changes in the speed of the machine itself are divided out. The exit code "
        "is 1 if a case is slower by more than --fail-above, or if its vectors moved away from torch's. It is also 1 "
        "if only the old vectors were compared with torch's, or if an old case failed in the new run. It is also 1 if "
        "no case has enough rounds for a verdict.",
    )
    parser.add_argument("old", type=parse_path, help="Old results.json, or report folder with one")
    parser.add_argument("new", type=parse_path, help="New results.json, or report folder with one; this one is judged")
    parser.add_argument(
        "--fail-above",
        type=parse_share,
        default=0.1,
        metavar="SHARE",
        help="Exit with 1 if a case is slower by more than this share, written as 10%% or 0.1 (default: 10%%)",
    )
    parser.add_argument(
        "--resolution",
        type=parse_share,
        default=RESOLUTION,
        metavar="SHARE",
        help="Ignore differences up to this share, which a restarted process can cause (default: 5%%)",
    )
    parser.add_argument(
        "--format", choices=("text", "md", "json"), default="text", help="Format of the output (default: text)"
    )
    return parser


def _to_share(text: str) -> float:
    if text.endswith("%"):
        return float(text.removesuffix("%")) / 100
    share = float(text)
    if share > 1:
        raise ValueError("10 may mean 10%")
    return share


def _compare(options: argparse.Namespace) -> int:
    old, new = read_results(options.old), read_results(options.new)
    hardware, _ = find_differences(old, new)
    comparison = compare(old, new, same_machine=not hardware, resolution=options.resolution)
    regressions = comparison.regressions(options.fail_above)
    notes = [*_machine_notes(old, new, comparison), *_case_notes(comparison)]
    if options.format == "json":
        print(json.dumps(_document(comparison, regressions, notes), indent=1))
    else:
        rows = [_row(change) for change in comparison.changes]
        draw = console.table if options.format == "text" else _markdown
        conclusion = _conclusion(comparison, regressions, options)
        print("\n\n".join(filter(None, ["\n".join(notes), draw(_HEADER, rows), conclusion])))
    return 1 if _has_failed(comparison, regressions) else 0


def _has_failed(comparison: Comparison, regressions: Sequence[CaseChange]) -> bool:
    faults = regressions or comparison.worse_parity or comparison.lost_parity or comparison.failed
    return bool(faults) or _is_undecidable(comparison)


def _is_undecidable(comparison: Comparison) -> bool:
    """Tell whether no case has enough rounds for a verdict, so that the comparison could never fail."""
    return len(comparison.undecidable) == len(comparison.changes)


def _machine_notes(old: Results, new: Results, comparison: Comparison) -> Iterator[str]:
    hardware, software = find_differences(old, new)
    if hardware:
        yield f"DIFFERENT MACHINES, raw times are compared: {'; '.join([*hardware.values(), *software.values()])}."
    elif software:
        yield f"Same machine, {new.machine.name}, with different software: {'; '.join(software.values())}."
    drifts = [change.drift for change in comparison.changes]
    ends = dict.fromkeys((_times(min(drifts)), _times(max(drifts))))
    if list(ends) != [_times(1.0)]:
        yield f"The machine itself was {' to '.join(ends)} in the new run; ratios are corrected for this."
    if doubt := doubt_texts((old, new)):
        yield f"{doubt[0].upper()}{doubt[1:]}."
    for which, results in (("old", old), ("new", new)):
        if not results.complete:
            yield f"The {which} results are incomplete: `{results.command}` was interrupted."
        if results.plan is None:
            yield f"The {which} results are from an older version: they do not tell whether --items was the same."


def _case_notes(comparison: Comparison) -> Iterator[str]:
    for which, cases in (("old", comparison.gone), ("new", comparison.added)):
        if len(cases) <= _MOST_LISTED:
            yield from (f"Only in the {which} results: {_describe(case)}." for case in cases)
        else:
            artifacts = ", ".join(dict.fromkeys(case.artifact for case in cases))
            yield f"Only in the {which} results: {len(cases)} cases, of {artifacts}."
    few = len(comparison.undecidable)
    if few:
        which = "NO VERDICT IS POSSIBLE, too few rounds" if _is_undecidable(comparison) else "Too few rounds"
        yield (
            f"{which} in {few} of {len(comparison.changes)} cases: measure both results with --rounds "
            f"{comparison.rounds_needed} or more, or measure fewer cases."
        )
    yield from (f"FAILED in the new run: {_describe(case)}: {reason}." for case, reason in comparison.failed)
    if lost := comparison.lost_parity:
        names = ", ".join(dict.fromkeys(change.new.artifact for change in lost))
        share = f"{len(lost)} of {len(comparison.changes)} cases, of {names}"
        yield (
            f"PARITY IS UNKNOWN in {share}: only the old vectors were compared "
            "with torch's. Measure where torch is installed, and name the weights of the export with --weights."
        )
    for change in comparison.worse_parity:
        was, now = (format_cosine(case.parity.min_cosine) for case in (change.old, change.new))
        yield f"PARITY IS WORSE for {_describe(change.new)}: the smallest cosine was {was} and is now {now}."


def _times(drift: float) -> str:
    if abs(math.log(drift)) < math.log(1.01):
        return "equally fast"
    return f"{drift:.2f} times slower" if drift > 1 else f"{1 / drift:.2f} times faster"


def _row(change: CaseChange) -> list[str]:
    case = change.new
    times = [f"{1000 * typical_s(which):.4g}" for which in (change.old, change.new)]
    ratio = f"{change.ratio:.3f} ({change.low:.3f} to {change.high:.3f})"
    return [case.artifact, case.tower, case.label, case.stage, _load(case), *times, ratio, change.verdict]


def _load(case: Case) -> str:
    return str(case.items) if case.tokens is None else f"{case.items} with {case.tokens} tokens"


def _describe(case: Case) -> str:
    return f"{case.artifact} {case.tower}, {case.label}, {case.stage}, batch size {_load(case)}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _conclusion(comparison: Comparison, regressions: Sequence[CaseChange], options: argparse.Namespace) -> str:
    counts = Counter(change.verdict for change in comparison.changes)
    return (
        f"{counts['slower']} slower, {counts['faster']} faster, {counts['not distinguishable']} not distinguishable; "
        f"{len(regressions)} slower by more than {100 * options.fail_above:g}%. "
        f"All {len(comparison.changes)} intervals together have a confidence of {100 * CONFIDENCE:g}%. "
        f"Differences up to {100 * options.resolution:g}% are ignored.{_power(comparison)}"
    )


def _power(comparison: Comparison) -> str:
    """Say which slowdowns would have been detected."""
    detectable = sorted(change.detectable for change in comparison.changes if change.detectable < math.inf)
    if not detectable:
        return ""
    half, every = (f"{math.ceil(100 * (ratio - 1))}%" for ratio in (detectable[len(detectable) // 2], detectable[-1]))
    return (
        f" In the {len(detectable)} cases with enough rounds, a slowdown of {half} would have been detected in half of "
        f"them, and one of {every} in all. More rounds detect smaller ones."
    )


def _document(comparison: Comparison, regressions: Sequence[CaseChange], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "notes": notes,
        "failed": _has_failed(comparison, regressions),
        "changes": [
            {
                "case": list(change.new.key),
                "old_ms": 1000 * typical_s(change.old),
                "new_ms": 1000 * typical_s(change.new),
                "ratio": change.ratio,
                "low": change.low,
                "high": change.high,
                "drift": change.drift,
                "visible": change.detectable if change.detectable < math.inf else None,
                "verdict": change.verdict,
                "regression": change in regressions,
                "parity_is_worse": change.parity_is_worse,
                "parity_is_lost": change.parity_is_lost,
            }
            for change in comparison.changes
        ],
        "gone": [list(case.key) for case in comparison.gone],
        "added": [list(case.key) for case in comparison.added],
    }
