"""What has to be known beside the figures: the machine, how it was measured, and what to be wary of."""

from __future__ import annotations

import numpy as np

from benchmarks.report.analysis import FEW_ROUNDS, Study
from benchmarks.report.format import count, digits, gibibytes, listing, percent, short
from benchmarks.report.table import Table, table
from benchmarks.results.schema import BenchmarkMachine, Results
from benchmarks.results.steal_time import MAX_STEAL

BUSY = 0.5  # load for each core from which others may have slowed what was measured
RESTLESS = 0.15  # spread of the yardstick beyond which the machine's own speed changed
_TELLING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_",
    "asimddp",
    "i8mm",
    "sve",
)


def caveats(study: Study) -> tuple[str, ...]:
    """Returns what keeps the figures from being taken at their word, the gravest first."""
    results = study.results
    found = (_incomplete(results), _random(results), _busy(results.machine), _robbed(study), _restless(study))
    return tuple(filter(None, (*found, *_doubtful(study))))


def machine_table(machine: BenchmarkMachine) -> Table:
    """Returns where it was measured."""
    limits = f"{machine.cores_allowed} of {machine.cores} cores allowed"
    quota = "" if machine.cpu_quota is None else f", quota of {short(machine.cpu_quota)} cores"
    memory = gibibytes(machine.memory_bytes)
    limit = "" if machine.memory_limit_bytes is None else f", limited to {gibibytes(machine.memory_limit_bytes)}"
    gpus = [f"{gpu.name}, {gibibytes(gpu.memory_bytes)}, driver {gpu.driver}" for gpu in machine.gpus]
    rows = [
        ("name", machine.name),
        ("CPU", f"{machine.cpu} ({machine.architecture}), {limits}{quota}"),
        ("instructions that matter", ", ".join(telling_flags(machine)) or "none of those that speed up products"),
        ("threads of each contender", str(machine.threads)),
        ("memory", memory + limit),
        *((f"GPU {n}", gpu) for n, gpu in enumerate(gpus)),
        ("CUDA, cuDNN", listing([v for v in (machine.cuda, machine.cudnn) if v]) or "none"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))),
        ("load average at the start", ", ".join(map(short, machine.load_average))),
    ]
    return table("Where it was measured", ("what", "value"), rows, words=2)


def ceilings_table(results: Results) -> Table:
    """Returns the most that the machine was seen to do."""
    if results.ceilings is None:
        return table("Ceilings", ("what",), [], words=1)
    products = sorted(results.ceilings.products, key=lambda c: (c.device, c.precision, -c.ops_per_s))
    rates = sorted(results.ceilings.read_bytes_per_s.items())
    rows = [
        (f"products in {c.precision} on {c.device}", c.engine, f"{digits(c.ops_per_s / 1e9)} Gop/s") for c in products
    ]
    rows += [(f"reading memory of {device}", "", f"{digits(rate / 1e9)} GB/s") for device, rate in rates]
    note = "The best rate seen in large products of matrices; a multiplication and an addition are two operations."
    return table("Ceilings", ("what", "engine", "rate"), rows, words=2, note=note)


def skipped_table(results: Results) -> Table:
    """Returns what was not measured, and why."""
    return table("Not measured", ("what", "why"), [(s.name, s.reason) for s in results.skipped], words=2)


def method(results: Results) -> tuple[str, ...]:
    """Returns how it was measured, a paragraph a piece."""
    left_out = sum(len(case.left_out) for case in results.cases)
    aim = f"Rounds were taken until the {percent(results.confidence)} interval of the median was within "
    return (
        "Every case ran in a fresh process and was warmed up first. Cases of the same work took turns, round by round, "
        "so that a change of the machine's speed hit all of them alike. All had the same number of threads.",
        f"Turns in which the host of a virtual machine gave more than {percent(MAX_STEAL)} of the CPU time that was "
        f"asked for to others were taken again, as far as --patience reached: {count(left_out, 'turn')} left out.",
        f"{aim}{percent(results.precision)} of it to either side; where that was not reached the case is called "
        "unstable beside its figure. Intervals are bootstrapped over whole rounds, since calls of one round share what "
        "the machine did meanwhile.",
        "Times as fast as torch eager: the median over rounds of the ratio of both medians in that round, at the same "
        "stage, items, tokens and kind of device. Where its interval holds 1, the two cannot be told apart.",
        "Items a second follow from the mean time. A p99 is given from 100 calls on. Cost comes from the times end to "
        "end: price of an hour / (items a second x 3600) x a million.",
    )


def telling_flags(machine: BenchmarkMachine) -> tuple[str, ...]:
    """Returns the instructions, of those that the machine has, that decide how fast products of matrices are."""
    return tuple(flag for flag in machine.cpu_flags if flag.startswith("amx_") or flag in _TELLING)


def _incomplete(results: Results) -> str:
    return "" if results.complete else "The run was ended before everything was measured; --resume goes on with it."


def _random(results: Results) -> str:
    names = [artifact.name for artifact in results.artifacts if artifact.random]
    return f"Random weights in {listing(names)}: the vectors mean nothing, only the speed does." if names else ""


def _busy(machine: BenchmarkMachine) -> str:
    load = machine.load_average[0] if machine.load_average else 0.0
    if load <= BUSY * machine.cores:
        return ""
    return f"The machine was busy when it began: a load of {digits(load)} on {count(machine.cores, 'core')}."


def _robbed(study: Study) -> str:
    """Says in how many cases the host gave much of the CPU to others."""
    shares = [row.case.stolen_share for row in study.rows if row.case.disturbed]
    if not shares:
        return ""
    return (
        f"The host gave CPU time to others: more than {percent(MAX_STEAL)} of what {len(shares)} of "
        f"{count(len(study.rows), 'case')} asked for, at most {percent(max(shares))}. When it is quieter, "
        "--resume --redo-disturbed measures those again."
    )


def _restless(study: Study) -> str:
    """Says whether the fixed piece of work took longer at some times than at others."""
    middles = [float(np.median(row.case.yardstick)) for row in study.rows if row.case.yardstick]
    if not middles or max(middles) <= (1 + RESTLESS) * min(middles):
        return ""
    return (
        f"The machine's own speed changed: a fixed piece of work took {digits(1000 * min(middles))} to "
        f"{digits(1000 * max(middles))} ms. Trust ratios more than times."
    )


def _doubtful(study: Study) -> tuple[str, str]:
    every = count(len(study.rows), "case")
    unstable, few = (sum(row.doubt == doubt for row in study.rows) for doubt in ("unstable", "few rounds"))
    return (
        f"{unstable} of {every} unstable: their intervals are wider than was aimed at." if unstable else "",
        f"{few} of {every} with fewer than {FEW_ROUNDS} rounds: their intervals say next to nothing." if few else "",
    )
