"""Schema of benchmark results: raw times and the conditions of their measurement. ``statistics`` derives the rest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.results.steal_time import MAX_STEAL
from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError, ManifestError

SCHEMA_VERSION = 2
RESULTS_FILE = "results.json"

Stage = Literal["graph", "end_to_end"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Device = Literal["cpu", "cuda"]


class ResultsError(EmbeddingBackbonesError):
    """A results file is missing, unreadable, or of another schema."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that the benchmark could use.

    Attributes:
        name: Name from the driver.
        memory_bytes: Size of its memory.
        driver: Version of the driver.
    """

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, kw_only=True)
class BenchmarkMachine:
    """Machine on which the times were measured.

    Attributes:
        name: Name from ``--machine``, by default the CPU and the GPUs; price files use this name.
        cpu: Model of the CPU.
        architecture: Instruction set, such as ``x86_64``.
        cpu_flags: CPU features by their Linux names.
        cores: Logical cores of the machine.
        cores_allowed: Cores in the affinity mask.
        cpu_quota: Cores that the control group allows; ``None`` without a quota.
        threads: Threads of every contender.
        memory_bytes: Memory of the machine.
        memory_limit_bytes: Memory that the control group allows; ``None`` without a limit.
        gpus: GPUs that the benchmark could use.
        cuda: Version of CUDA that onnxruntime was built with; ``None`` without a GPU.
        cudnn: Version of the cuDNN library found; ``None`` without a GPU.
        system: Operating system and kernel.
        python: Version of Python.
        packages: Versions of the packages involved.
        load_average: Load of the last 1, 5 and 15 minutes when the benchmark began.
    """

    name: str
    cpu: str
    architecture: str
    cpu_flags: tuple[str, ...]
    cores: int
    cores_allowed: int
    cpu_quota: float | None
    threads: int
    memory_bytes: int
    memory_limit_bytes: int | None
    gpus: tuple[Gpu, ...]
    cuda: str | None
    cudnn: str | None
    system: str
    python: str
    packages: dict[str, str]
    load_average: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Highest measured rate of matrix multiplication.

    Attributes:
        device: Device that computed.
        precision: Data type of the matrices; int8 means unsigned times signed.
        engine: Library that reached the rate.
        ops_per_s: Operations per second for a large product; a multiplication and an addition are two operations.
    """

    device: Device
    precision: Precision
    engine: str
    ops_per_s: float


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Limits of a machine: the roofline.

    Attributes:
        products: The best engine for each device and precision.
        read_bytes_per_s: Memory bandwidth of each device.
    """

    products: tuple[Ceiling, ...]
    read_bytes_per_s: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Artifact that was measured.

    Attributes:
        name: Name of the artifact.
        backbone: Entry of the catalogue.
        task: Task of its vectors.
        architecture: Model family.
        output_dim: Length of a vector.
        weights: Description of the origin of its weights.
        random: Whether the weights are random, so that the vectors mean nothing.
        seal: Hash of its manifest.
    """

    name: str
    backbone: str
    task: str
    architecture: str
    output_dim: int
    weights: str
    random: bool
    seal: str


@dataclass(frozen=True, kw_only=True)
class Worst:
    """Item whose vector is far from its reference.

    Attributes:
        item: Beginning of the text, or name of the file.
        cosine: Cosine similarity to the reference.
    """

    item: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class CaseParity:
    """Parity of a case: its vectors compared with reference vectors.

    Attributes:
        reference: Origin of the reference, such as ``torch eager, fp32``.
        items: Number of items compared.
        min_cosine: Smallest cosine similarity.
        p1_cosine: First percentile of the cosine similarities.
        mean_cosine: Mean cosine similarity.
        max_abs_error: Largest absolute difference.
        relative_error: ``max_abs_error`` divided by the largest absolute value of the reference.
        overlap_at_10: Mean share of the ten nearest neighbours that are the same.
        worst: The three worst items, the worst first.
    """

    reference: str
    items: int
    min_cosine: float
    p1_cosine: float
    mean_cosine: float
    max_abs_error: float
    relative_error: float
    overlap_at_10: float
    worst: tuple[Worst, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of one call, counted from the graph.

    Attributes:
        operations: Operations of matrix products and convolutions; a multiplication and an addition are two.
        read_bytes: Size of the inputs and of the weights as this variant stores them: a lower bound of reads.
        written_bytes: Size of the vectors.
    """

    operations: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """Measurement of one contender with one workload, in its own process.

    Attributes:
        artifact: Name of the artifact.
        tower: Tower of the artifact.
        contender: Library that embeds: ``runtime`` (this project), ``torch``, ``sentence-transformers`` and so on.
        variant: Variant of the graph, or mode of torch.
        provider: Execution provider of onnxruntime, or device of torch.
        precision: Data type of most of the arithmetic.
        stage: ``graph``: arrays in, vectors out. ``end_to_end``: files or strings in, vectors out.
        items: Items per call.
        tokens: Length of each text, padding included; ``None`` if lengths are mixed, or for other items.
        rounds: Seconds of each call, by round. The contenders take turns in each round.
        yardstick: Seconds of a reference workload in each round. They show how fast the machine was.
        stolen: Steal time in each round, as a share of the CPU time that was asked for; 0 if the system does not report
            it.
        left_out: Seconds of each call of turns that do not count, because their steal time was too high.
        start_s: Seconds from the start of the process until the model was loaded.
        first_s: Seconds of the first call.
        peak_bytes: Peak resident memory of the process.
        stages: Seconds of each step of a call, in order; empty if the steps were not timed.
        parity: Comparison with the reference vectors; ``None`` if there were none.
        work: Work of one call; ``None`` if it was not counted.
    """

    artifact: str
    tower: TowerName
    contender: str
    variant: str
    provider: str
    precision: Precision
    stage: Stage
    items: int
    tokens: int | None
    rounds: tuple[tuple[float, ...], ...]
    yardstick: tuple[float, ...]
    stolen: tuple[float, ...]
    left_out: tuple[tuple[float, ...], ...]
    start_s: float
    first_s: float
    peak_bytes: int
    stages: dict[str, float]
    parity: CaseParity | None
    work: Work | None

    @property
    def label(self) -> str:
        """Contender, variant and provider, for display: ``runtime int8 on cpu``."""
        return f"{self.contender} {self.variant} on {self.provider}"

    @property
    def stolen_share(self) -> float:
        """Mean steal time as a share."""
        return sum(self.stolen) / max(1, len(self.stolen))

    @property
    def disturbed(self) -> bool:
        """Whether steal time was so high that the times say little about the machine."""
        return self.stolen_share > MAX_STEAL

    @property
    def device(self) -> Device:
        """Device that computed."""
        return "cuda" if self.provider in ("cuda", "tensorrt") else "cpu"

    @property
    def key(self) -> tuple[str, str, str, str, str, str, int, int]:
        """Key of the case. It is unique within results, and the same in results of the same benchmark."""
        names = (self.artifact, self.tower, self.contender, self.variant, self.provider, self.stage)
        return (*names, self.items, self.tokens or 0)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Measurement that was not possible.

    Attributes:
        name: Artifact and contender.
        reason: Cause, and a remedy if there is one.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results of one run.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION` at the time of writing.
        date: Start of the run in UTC: ``2026-11-22T09:00:00+00:00``.
        command: Command line of the run.
        complete: Whether every planned case was measured.
        confidence: Confidence level of the intervals, such as 0.95.
        precision: Half-width of the intervals at which rounds end, as a share of the median (``--half-width``).
        machine: Machine of the run.
        ceilings: Limits of the machine; ``None`` if they were not measured.
        artifacts: Artifacts of the run.
        cases: Measurements.
        skipped: Measurements that were not possible.
    """

    schema_version: int
    date: str
    command: str
    complete: bool
    confidence: float
    precision: float
    machine: BenchmarkMachine
    ceilings: Ceilings | None
    artifacts: tuple[Artifact, ...]
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...]

    def to_json(self) -> str:
        """Return the text of ``results.json``, with one case per line."""
        document = dataclasses.asdict(self)
        cases = ",\n".join(json.dumps(case) for case in document.pop("cases"))
        head = json.dumps(document | {"cases": []}, indent=1)
        return head.replace('"cases": []', f'"cases": [\n{cases}\n ]') + "\n"


def read_results(path: Path) -> Results:
    """Read and check results.

    Args:
        path: A ``results.json``, or a report's folder with this file.

    Raises:
        ResultsError: The file is missing, cannot be read, or has another schema.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path} does not exist; create it with `python -m benchmarks ARTIFACT -o REPORT`") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise ResultsError(f"cannot read {path} ({exc}); run the benchmark again") from exc
    return _decode(document, path)


def _decode(document: Any, path: Path) -> Results:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise ResultsError(f"{path} has no schema_version; name a results.json of `python -m benchmarks`")
    if version != SCHEMA_VERSION:
        remedy = "upgrade embedding-backbones" if version > SCHEMA_VERSION else "run the benchmark again"
        raise ResultsError(f"{path} has schema {version}, this version reads {SCHEMA_VERSION}; {remedy}")
    try:
        return decode(Results, document, "results")
    except ManifestError as exc:
        raise ResultsError(f"{path} violates schema {SCHEMA_VERSION} ({exc}); run the benchmark again") from exc
