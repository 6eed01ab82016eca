"""Made-up results, for tests of reports, comparisons and choices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.results.schema import (
    SCHEMA_VERSION,
    Artifact,
    BenchmarkMachine,
    Case,
    CaseParity,
    Ceiling,
    Ceilings,
    PlanRecord,
    Results,
    Skipped,
    Work,
    Worst,
)

MACHINE = BenchmarkMachine(
    name="toy-machine",
    cpu="A CPU of 2 cores",
    architecture="x86_64",
    cpu_flags=("avx2", "avx512_vnni"),
    cores=2,
    cores_allowed=2,
    cpu_quota=None,
    threads=2,
    memory_bytes=24 * 2**30,
    memory_limit_bytes=None,
    gpus=(),
    cuda=None,
    cudnn=None,
    system="Linux 6.1",
    python="3.11.7",
    packages={"onnxruntime": "1.31.1", "torch": "2.14.1"},
    load_average=(0.1, 0.2, 0.3),
)
CEILINGS = Ceilings(
    products=(
        Ceiling(device="cpu", precision="fp32", engine="onnxruntime", ops_per_s=1.1e11),
        Ceiling(device="cpu", precision="int8", engine="onnxruntime", ops_per_s=4e11),
    ),
    read_bytes_per_s={"cpu": 8e9},
)
ARTIFACT = Artifact(
    name="toy-text",
    backbone="sbert-base-en",
    task="text-to-text",
    architecture="transformer",
    output_dim=384,
    weights="file model.safetensors",
    random=False,
    seal="0" * 64,
)
PARITY = CaseParity(
    reference="torch eager on cpu",
    items=64,
    min_cosine=0.99712,
    p1_cosine=0.9973,
    mean_cosine=0.9989,
    max_abs_error=0.011,
    relative_error=0.04,
    overlap_at_10=0.967,
    worst=(Worst(item="a <b>text</b> & more", cosine=0.99712), Worst(item="another", cosine=0.9973)),
)
NOT_WITH_TORCH = replace(PARITY, reference="the graph in fp32 on cpu, each item alone", min_cosine=1.0)
CASE = Case(
    artifact="toy-text",
    tower="text",
    contender="runtime",
    variant="fp32",
    provider="cpu",
    precision="fp32",
    stage="end_to_end",
    items=1,
    tokens=None,
    rounds=((0.01,) * 4,) * 10,
    yardstick=(0.05,) * 10,
    stolen=(0.0,) * 10,
    left_out=(),
    start_s=0.6,
    first_s=0.03,
    peak_bytes=180 * 2**20,
    stages={"tokenize": 0.001, "infer": 0.009},
    parity=PARITY,
    work=None,
)
PLAN = PlanRecord(
    contenders=("runtime", "torch"),
    providers=("cpu",),
    batch_sizes=(1,),
    tokens=(64,),
    stages=("graph", "end_to_end"),
    rounds=5,
    seconds=1.0,
    weights={},
    items={},
)
RESULTS = Results(
    schema_version=SCHEMA_VERSION,
    date="2026-11-22T09:00:00+00:00",
    command="python -m benchmarks artifacts/toy-text -o report",
    complete=True,
    confidence=0.95,
    precision=0.05,
    machine=MACHINE,
    ceilings=CEILINGS,
    artifacts=(ARTIFACT,),
    cases=(CASE,),
    skipped=(Skipped(name="toy-text: fastembed", reason="it is not installed: pip install fastembed"),),
    plan=PLAN,
)


def timed(case: Case, mean_s: float, *, rounds: int = 10, calls: int = 4, noise: float = 0.02, seed: int = 0) -> Case:
    """Return ``case`` with times around ``mean_s`` seconds and a relative spread of ``noise``."""
    generator = np.random.default_rng(seed)
    times = mean_s * (1 + noise * generator.standard_normal((rounds, calls)))
    reference_times = 0.05 * (1 + 0.01 * generator.standard_normal(rounds))
    return replace(case, rounds=tuple(map(tuple, times.tolist())), yardstick=tuple(reference_times.tolist()))


def many_cases() -> tuple[Case, ...]:
    """Return cases of four contenders at both stages and four batch sizes, with plausible times."""
    setups = [("runtime", "fp32", 1.0), ("runtime", "int8", 0.55), ("torch", "eager", 1.25), ("torch", "bf16", 1.6)]
    cases = []
    for stage in ("graph", "end_to_end"):
        for contender, variant, factor in setups:
            if stage == "end_to_end" and contender == "torch":
                continue
            for items in (1, 8, 32, 128):
                seconds = factor * (0.004 + 0.006 * items) * (1.1 if stage == "end_to_end" else 1)
                case = replace(
                    CASE,
                    contender=contender,
                    variant=variant,
                    precision="int8" if variant == "int8" else "bf16" if variant == "bf16" else "fp32",
                    stage=stage,
                    items=items,
                    tokens=64 if stage == "graph" else None,
                    stages={"tokenize": 0.1 * seconds, "infer": 0.9 * seconds} if stage == "end_to_end" else {},
                    work=Work(operations=4 * 10**8 * items, read_bytes=9 * 10**7, written_bytes=1536 * items)
                    if stage == "graph"
                    else None,
                )
                cases.append(timed(case, seconds, noise=0.2 if items == 128 else 0.02, seed=items))
    return tuple(cases)
