"""Says of every case that two results share whether it became faster, slower, or cannot be told apart, for CI."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.verdicts import CONFIDENCE, RESOLUTION, Change, Comparison, compare
from benchmarks.results.schema import BenchmarkMachine, Case, Results, read_results
from runtime import console
from runtime.artifact.parity import near_one

_SOFTWARE = ("system", "python", "packages", "cuda", "cudnn")
_FLEETING = ("load_average",)
_MOST_LISTED = 8
_HEADER = ["artifact", "tower", "contender", "stage", "items", "old p50 ms", "new p50 ms", "ratio", "verdict"]


def main(argv: Sequence[str] | None = None) -> int:
    """Compares two results and returns 1 if a case is slower by more than ``--fail-above``."""
    arguments = build_parser().parse_args(argv)
    return console.run(lambda: _compare(arguments))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    parser.add_argument("old", type=Path, help="a results.json, or the folder of its report")
    parser.add_argument("new", type=Path, help="the same, of what is judged")
    parser.add_argument(
        "--fail-above",
        type=_share,
        default=0.1,
        metavar="SHARE",
        help="exit with 1 if a case is slower by more than this, as 10%% or 0.1 (default: 10%%)",
    )
    parser.add_argument(
        "--resolution",
        type=_share,
        default=RESOLUTION,
        metavar="SHARE",
        help="what a fresh process may differ by; a verdict's whole interval lies beyond (default: 5%%)",
    )
    parser.add_argument("--format", choices=("text", "md", "json"), default="text", help="default: %(default)s")
    return parser


def _share(text: str) -> float:
    """Returns the share that ``10%`` or ``0.1`` means."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf or (share > 1 and not text.endswith("%")):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write it as 10% or 0.1")
    return share


def _compare(arguments: argparse.Namespace) -> int:
    old, new = read_results(arguments.old), read_results(arguments.new)
    hardware = _differences(old.machine, new.machine, software=False)
    comparison = compare(old, new, same_machine=not hardware, resolution=arguments.resolution)
    regressions = comparison.regressions(arguments.fail_above)
    notes = _notes(old, new, comparison)
    if arguments.format == "json":
        print(json.dumps(_document(comparison, regressions, notes), indent=1))
    else:
        rows = [_row(change) for change in comparison.changes]
        draw = console.table if arguments.format == "text" else _markdown
        conclusion = _conclusion(comparison, regressions, arguments)
        print("\n\n".join(filter(None, ["\n".join(notes), draw(_HEADER, rows), conclusion])))
    return 1 if regressions else 0


def _notes(old: Results, new: Results, comparison: Comparison) -> list[str]:
    """Returns what has to be known before a ratio is read, that about the machines first."""
    return [
        *_about_machines(old.machine, new.machine),
        *_about_pace(comparison),
        *(
            f"The {which} results are incomplete: `{results.command}` was interrupted."
            for which, results in (("old", old), ("new", new))
            if not results.complete
        ),
        *_about_cases(comparison),
    ]


def _about_machines(old: BenchmarkMachine, new: BenchmarkMachine) -> list[str]:
    hardware, software = (_differences(old, new, software=kind) for kind in (False, True))
    if hardware:
        return [f"DIFFERENT MACHINES, so raw times are compared: {'; '.join(hardware + software)}."]
    return [f"The same machine, {new.name}, with other software: {'; '.join(software)}."] if software else []


def _about_pace(comparison: Comparison) -> list[str]:
    drifts = [change.drift for change in comparison.changes]
    ends = dict.fromkeys((_times(min(drifts)), _times(max(drifts))))
    if list(ends) == [_times(1.0)]:
        return []
    return [f"The machine was {' to '.join(ends)} in the new run by yardstick and cases; ratios are without that."]


def _about_cases(comparison: Comparison) -> list[str]:
    few = sum(change.visible == math.inf for change in comparison.changes)
    return [
        *_about_one_side("old", comparison.gone),
        *_about_one_side("new", comparison.added),
        *([f"Cases with too few rounds to be judged among so many: {few}; measure more --rounds."] if few else []),
        *(_about_parity(change) for change in comparison.changes if change.parity_is_worse),
    ]


def _about_one_side(which: str, cases: Sequence[Case]) -> list[str]:
    if len(cases) <= _MOST_LISTED:
        return [f"Only in the {which} results: {_describe(case)}." for case in cases]
    return [
        f"Only in the {which} results: {len(cases)} cases, of {', '.join({case.artifact: None for case in cases})}."
    ]


def _about_parity(change: Change) -> str:
    old, new = (near_one(case.parity.min_cosine) for case in (change.old, change.new) if case.parity)
    return f"Parity is worse: {_describe(change.new)}: min cosine was {old}, is {new}."


def _times(drift: float) -> str:
    if abs(math.log(drift)) < math.log(1.01):
        return "as fast"
    return f"{drift:.2f} times slower" if drift > 1 else f"{1 / drift:.2f} times faster"


def _differences(old: BenchmarkMachine, new: BenchmarkMachine, *, software: bool) -> list[str]:
    """Returns the facts that differ, of the machine itself or of what is installed on it."""
    facts = [
        (field.name, getattr(old, field.name), getattr(new, field.name))
        for field in dataclasses.fields(BenchmarkMachine)
        if field.name not in _FLEETING and (field.name in _SOFTWARE) == software
    ]
    return [_difference(name, before, after) for name, before, after in facts if before != after]


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping):
        names = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        return ", ".join(f"{key} {old.get(key, 'none')} -> {new.get(key, 'none')}" for key in names)
    if name == "cpu_flags":
        words = [f"-{flag}" for flag in sorted(set(old) - set(new))] + [
            f"+{flag}" for flag in sorted(set(new) - set(old))
        ]
        return f"cpu_flags {' '.join(words) or 'in another order'}"
    if name == "gpus":
        old, new = (", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in gpus) or "none" for gpus in (old, new))
    return f"{name} {old} -> {new}"


def _row(change: Change) -> list[str]:
    case = change.new
    p50s = [f"{_p50_ms(which):.4g}" for which in (change.old, change.new)]
    ratio = f"{change.ratio:.3f} ({change.low:.3f} to {change.high:.3f})"
    return [case.artifact, case.tower, case.label, case.stage, _load(case), *p50s, ratio, change.verdict]


def _p50_ms(case: Case) -> float:
    return 1000 * float(np.median(np.concatenate(case.rounds)))


def _load(case: Case) -> str:
    return str(case.items) if case.tokens is None else f"{case.items} of {case.tokens} tokens"


def _describe(case: Case) -> str:
    return f"{case.artifact} {case.tower}, {case.label}, {case.stage}, {_load(case)}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _conclusion(comparison: Comparison, regressions: Sequence[Change], arguments: argparse.Namespace) -> str:
    counts = Counter(change.verdict for change in comparison.changes)
    return (
        f"{counts['slower']} slower, {counts['faster']} faster, {counts['not distinguishable']} not distinguishable; "
        f"{len(regressions)} slower by more than {100 * arguments.fail_above:g}%. "
        f"All {len(comparison.changes)} intervals hold at once with {100 * CONFIDENCE:g}% confidence; "
        f"differences up to {100 * arguments.resolution:g}% are not believed.{_power(comparison)}"
    )


def _power(comparison: Comparison) -> str:
    """Says what a verdict of no difference is worth: which slowdowns would have been seen."""
    visible = sorted(change.visible for change in comparison.changes if change.visible < math.inf)
    if not visible:
        return ""
    half, every = (f"{math.ceil(100 * (ratio - 1))}%" for ratio in (visible[len(visible) // 2], visible[-1]))
    return (
        f" Of {len(visible)} with rounds enough, a slowdown of {half} would have been seen in half of the cases, one "
        f"of {every} in all; with more rounds, smaller ones are."
    )


def _document(comparison: Comparison, regressions: Sequence[Change], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "notes": list(notes),
        "failed": bool(regressions),
        "changes": [
            {
                "case": list(change.new.key),
                "old_p50_ms": _p50_ms(change.old),
                "new_p50_ms": _p50_ms(change.new),
                "ratio": change.ratio,
                "low": change.low,
                "high": change.high,
                "drift": change.drift,
                "visible": change.visible if change.visible < math.inf else None,
                "verdict": change.verdict,
                "regression": change in regressions,
                "parity_is_worse": change.parity_is_worse,
            }
            for change in comparison.changes
        ],
        "gone": [list(case.key) for case in comparison.gone],
        "added": [list(case.key) for case in comparison.added],
    }


if __name__ == "__main__":
    sys.exit(main())
