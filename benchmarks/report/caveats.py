"""Describe the conditions of a run: warnings, the machine, the method and the cases that were skipped."""

from __future__ import annotations

import numpy as np

from benchmarks.report.analysis import Study
from benchmarks.report.format import count, digits, gibibytes, listing, percent, short
from benchmarks.report.table import Table, text_table
from benchmarks.results.schema import MAX_STEAL, TIMED_ITEMS, BenchmarkMachine, Results
from benchmarks.results.statistics import ENOUGH_FOR_P95, ENOUGH_FOR_P99, FEW_ROUNDS

BUSY_LOAD = 0.5  # load average per core above which other processes may have slowed the run.
SPEED_DRIFT = 0.15  # spread of the yardstick times above which the speed of the machine changed.
_USEFUL_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "asimddp", "i8mm", "sve")


def caveats(study: Study) -> tuple[str, ...]:
    """Return reasons to distrust the figures, the most serious first."""
    found = (
        *(_incomplete(study), _random_weights(study), _without_torch(study), busy(study.results.machine)),
        *(_steal_time(study), _speed_drift(study), _unstable(study), _few_rounds(study)),
    )
    return tuple(filter(None, found))


def machine_table(machine: BenchmarkMachine) -> Table:
    """Return the hardware and software of the machine."""
    limits = f"{machine.cores_allowed} of {machine.cores} cores allowed"
    quota = "" if machine.cpu_quota is None else f", quota of {short(machine.cpu_quota)} cores"
    memory = gibibytes(machine.memory_bytes)
    limit = "" if machine.memory_limit_bytes is None else f", limited to {gibibytes(machine.memory_limit_bytes)}"
    gpus = [f"{gpu.name}, {gibibytes(gpu.memory_bytes)}, driver {gpu.driver}" for gpu in machine.gpus]
    rows = [
        ("name", machine.name),
        ("CPU", f"{machine.cpu} ({machine.architecture}), {limits}{quota}"),
        ("CPU features for fast inference", ", ".join(useful_flags(machine)) or "none"),
        ("threads per contender", str(machine.threads)),
        ("memory", memory + limit),
        *((f"GPU {n}", gpu) for n, gpu in enumerate(gpus)),
        ("CUDA, cuDNN", listing([v for v in (machine.cuda, machine.cudnn) if v]) or "none"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))),
        ("load average at the start", ", ".join(map(short, machine.load_average))),
    ]
    return text_table("Hardware and software", ("property", "value"), rows)


def environments_table(results: Results) -> Table:
    """Return the software of the environments that ``--python`` names."""
    rows = [
        (name, each.python, ", ".join(f"{package} {version}" for package, version in sorted(each.packages.items())))
        for name, each in sorted(results.environments.items())
    ]
    return text_table("Environments of --python", ("contender or provider", "Python", "packages"), rows)


def ceilings_table(results: Results) -> Table:
    """Return the peak rates of the machine."""
    ceilings = results.ceilings
    products = sorted(ceilings.products, key=lambda c: (c.device, c.precision, -c.ops_per_s)) if ceilings else []
    memories = sorted(ceilings.read_bytes_per_s.items()) if ceilings else []
    rows = [
        (f"{c.precision} matrix products on {c.device}", c.engine, f"{digits(c.ops_per_s / 1e9)} Gop/s")
        for c in products
    ]
    rows += [(f"memory reads on {device}", "", f"{digits(rate / 1e9)} GB/s") for device, rate in memories]
    note = "Best measured rate of large matrix products; a multiplication and an addition count as two operations."
    return text_table("Peak rates", ("operation", "engine", "rate"), rows, note=note)


def skipped_table(results: Results) -> Table:
    """Return the cases that were not measured, with the reasons."""
    return text_table("Not measured", ("case", "reason"), [(s.name, s.reason) for s in results.skipped])


def method(results: Results) -> tuple[str, ...]:
    """Return the description of the method, one paragraph per entry."""
    discarded = count(sum(len(case.left_out) for case in results.cases), "turn")
    return (
        "Each case ran in a new process and was warmed up first. Cases with the same work took turns, round by round, "
        "so that a change in the machine's speed affected all of them. All used the same number of threads.",
        f"On a virtual machine, a turn was repeated if the host took more than {percent(MAX_STEAL)} of its CPU time, "
        f"until --patience ran out. Discarded: {discarded}.",
        "The time of a round is the mean of its calls end to end, where each has other items, and their median for the "
        f"graph alone. The report marks a case as unstable if the {percent(results.confidence)} confidence interval of "
        f"the median of these times is wider than +/- {percent(results.precision)}. Rounds were added until no case "
        "was unstable, or until time was up. The bootstrap behind the intervals draws whole rounds, because calls of "
        "one round share the state of the machine.",
        "Speedup over torch eager is the median, over rounds, of the ratio of both times of a round. Both ran the same "
        "stage, batch size and number of tokens on the same kind of device. If the interval contains 1, the two are "
        "not distinguishable.",
        f"End to end, {TIMED_ITEMS} items of evenly spaced sizes stand for all, and the calls repeat them. So a high "
        "percentile is that of the largest of these, and of the machine. Larger items are not in it.",
        "The p50 is the median of the rounds' medians, and its interval draws from these. The p95 and p99 are those of "
        f"all calls; a p95 needs at least {ENOUGH_FOR_P95}, a p99 {ENOUGH_FOR_P99}. Items per second come from the "
        "mean time. Costs come from end-to-end times: price per hour / (items per second x 3600) x 1,000,000.",
    )


def useful_flags(machine: BenchmarkMachine) -> tuple[str, ...]:
    """Return the CPU features of the machine that speed up matrix products."""
    return tuple(flag for flag in machine.cpu_flags if flag.startswith("amx_") or flag in _USEFUL_FLAGS)


def _incomplete(study: Study) -> str:
    reason = "The run stopped before everything was measured; continue it with --resume."
    return "" if study.results.complete else reason


def _random_weights(study: Study) -> str:
    names = [artifact.name for artifact in study.results.artifacts if artifact.random]
    if not names:
        return ""
    start = f"Random weights in {listing(names)}: vectors have no meaning, but times "
    texts = [
        section.artifact.name
        for section in study.sections
        if section.artifact.random and section.tower == "text" and section.at("end_to_end")
    ]
    if not texts:
        return f"{start}are valid."
    return (
        f"{start}of images, meshes and arrays are valid. Text models of the catalogue then have a stand-in tokenizer, "
        "which makes two to three times as many tokens as the real one. So times of texts end to end with "
        f"{listing(texts)} can be those of longer texts."
    )


def _without_torch(study: Study) -> str:
    titles = [section.title for section in study.sections if section.rows and not section.compared_with_torch]
    remedy = "Measure where torch is installed, and name the weights of the export with --weights."
    return f"The vectors of {listing(titles)} were not compared with torch. {remedy}" if titles else ""


def busy(machine: BenchmarkMachine) -> str:
    """Return a warning if other processes were running at the start."""
    load = machine.load_average[0] if machine.load_average else 0.0
    if load <= BUSY_LOAD * machine.cores:
        return ""
    return f"The machine was busy at the start: a load average of {digits(load)} on {count(machine.cores, 'core')}."


def _steal_time(study: Study) -> str:
    shares = [row.case.stolen_share for row in study.rows if row.case.disturbed]
    if not shares:
        return ""
    return (
        f"The host took CPU time from this virtual machine: more than {percent(MAX_STEAL)} in {len(shares)} of "
        f"{count(len(study.rows), 'case')}, and up to {percent(max(shares))}. Measure these again at a quieter time "
        "with --resume --redo-disturbed."
    )


def _speed_drift(study: Study) -> str:
    medians = [float(np.median(row.case.yardstick)) for row in study.rows if row.case.yardstick]
    if not medians or max(medians) <= (1 + SPEED_DRIFT) * min(medians):
        return ""
    return (
        f"The machine's speed changed during the run: a fixed computation took {digits(1000 * min(medians))} to "
        f"{digits(1000 * max(medians))} ms. Trust ratios more than times."
    )


def _unstable(study: Study) -> str:
    cases = _with_warning(study, "unstable")
    return f"Unstable times in {cases}: their confidence intervals are wider than requested." if cases else ""


def _few_rounds(study: Study) -> str:
    cases = _with_warning(study, "few rounds")
    return f"Fewer than {FEW_ROUNDS} rounds in {cases}: their confidence intervals are unreliable." if cases else ""


def _with_warning(study: Study, warning: str) -> str:
    number = sum(row.warning == warning for row in study.rows)
    return f"{number} of {count(len(study.rows), 'case')}" if number else ""
