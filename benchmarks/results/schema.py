"""What a benchmark leaves: raw times with all that is needed to judge them. Figures are derived, in ``summary``."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.results.steal_time import MOST_STOLEN
from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError, ManifestError, OutputError

SCHEMA_VERSION = 2
RESULTS_FILE = "results.json"

Stage = Literal["graph", "end_to_end"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Device = Literal["cpu", "cuda"]


class ResultsError(EmbeddingBackbonesError):
    """A file of results is missing, unreadable, or of another schema."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that the benchmark could use.

    Attributes:
        name: What its driver calls it.
        memory_bytes: Its memory.
        driver: Version of the driver.
    """

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the times were taken.

    Attributes:
        name: What its owner calls it, by ``--machine``, else its CPU and GPUs; a price file is read by this name.
        cpu: Model of the CPU.
        architecture: Its instruction set, such as ``x86_64``.
        cpu_flags: What it can do, as Linux names it.
        cores: Logical cores of the machine.
        cores_allowed: Those in the affinity mask.
        cpu_quota: Cores that the control group allows; ``None`` without a quota.
        threads: Threads that every contender was given.
        memory_bytes: Memory of the machine.
        memory_limit_bytes: What the control group allows of it; ``None`` without a limit.
        gpus: Its GPUs.
        cuda: Version of CUDA that onnxruntime was built with; ``None`` without a GPU.
        cudnn: Version of the cuDNN library found; ``None`` without a GPU.
        system: Operating system and kernel.
        python: Version of Python.
        packages: Versions of the packages that took part.
        load_average: Of the last 1, 5 and 15 minutes, when the benchmark began.
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
    """The most that this machine was seen to do.

    Attributes:
        device: Of what.
        precision: Of the products; of int8, unsigned by signed.
        engine: Which library reached it.
        ops_per_s: Operations a second of a large product of matrices; a multiplication and an addition are two.
    """

    device: Device
    precision: Precision
    engine: str
    ops_per_s: float


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The limits of a machine, by which shares of the roofline are stated.

    Attributes:
        products: The best engine for each device and precision.
        read_bytes_per_s: Of memory, for each device.
    """

    products: tuple[Ceiling, ...]
    read_bytes_per_s: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What was measured.

    Attributes:
        name: What the artifact is called.
        backbone: The entry of the catalogue.
        task: What its vectors are for.
        architecture: Its family.
        output_dim: Length of a vector.
        weights: Where its weights came from, for a person.
        random: Whether they are random, so that its vectors mean nothing.
        seal: Hash of its manifest, which tells it from every other one.
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
    """An item whose vector is far from its reference.

    Attributes:
        item: Its beginning, or its file.
        cosine: Cosine similarity to the reference.
    """

    item: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Vectors against those of torch.

    Attributes:
        reference: What they are held against, such as ``torch eager, fp32``.
        items: How many real items.
        min_cosine: Smallest cosine similarity.
        p1_cosine: That which one in a hundred is below.
        mean_cosine: Mean one.
        max_abs_error: Largest absolute difference.
        relative_error: That, as a share of the largest absolute value of the reference.
        overlap_at_10: Mean share of ten nearest neighbours that are the same.
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
    """What one call has to do, counted from the graph.

    Attributes:
        operations: Of products and convolutions; a multiplication and an addition are two.
        read_bytes: Weights, as this variant stores them, and inputs: what has to be read once at least.
        written_bytes: The vectors.
    """

    operations: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One contender at one piece of work, in a process of its own.

    Attributes:
        artifact: Name of the artifact.
        tower: Which of its graphs.
        contender: Who embeds: ``runtime`` (this project), ``torch``, ``sentence-transformers`` and so on.
        variant: How: the graph's variant, or torch's way to run.
        provider: Execution provider of onnxruntime, or device of torch.
        precision: Of the arithmetic that most of the work is done in.
        stage: ``graph``: arrays in, vectors out. ``end_to_end``: files or strings in, vectors out.
        items: Items of a call.
        tokens: Length of each text, padding included; ``None`` where lengths are mixed, or there are none.
        rounds: Seconds of each call, in the rounds in which the contenders took turns.
        yardstick: Seconds of a fixed piece of work in each of those rounds, which tells how fast the machine was then.
        stolen: Share of the CPU time it asked for in each of those rounds that the host of a virtual machine gave to
            others; 0 where no system tells.
        left_out: Seconds of each call of turns that do not count, since too much was stolen in them.
        start_s: Seconds from the start of the process until the model was loaded.
        first_s: Seconds of its first call.
        peak_bytes: Largest resident memory of the process.
        stages: Seconds of each step of a call, one after another; empty where they were not taken apart.
        parity: How its vectors compare; ``None`` where nothing could be held against.
        work: What a call has to do; ``None`` where it was not counted.
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
    parity: Parity | None
    work: Work | None

    @property
    def label(self) -> str:
        """Who, how and on what, for a person: ``runtime int8 on cpu``."""
        return f"{self.contender} {self.variant} on {self.provider}"

    @property
    def stolen_share(self) -> float:
        """Mean of :attr:`stolen`."""
        return sum(self.stolen) / max(1, len(self.stolen))

    @property
    def disturbed(self) -> bool:
        """Whether so much was stolen that its times say little of the machine."""
        return self.stolen_share > MOST_STOLEN

    @property
    def device(self) -> Device:
        """What the work was done on."""
        return "cuda" if self.provider in ("cuda", "tensorrt") else "cpu"

    @property
    def key(self) -> tuple[str, str, str, str, str, str, int, int]:
        """What tells a case from every other one of the same results, and finds it again in others."""
        names = (self.artifact, self.tower, self.contender, self.variant, self.provider, self.stage)
        return (*names, self.items, self.tokens or 0)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What was not measured.

    Attributes:
        name: The contender, and of which artifact.
        reason: Why not, and the way out.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that one run left.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION` at the time of writing.
        date: When it began, in UTC: ``2026-11-22T09:00:00+00:00``.
        command: The command that made it.
        complete: Whether everything that was planned has been measured.
        confidence: Of the intervals for which rounds were taken, such as 0.95.
        precision: Half-width of those intervals that was aimed at, as a share of the median.
        machine: Where.
        ceilings: What the machine can do at most; ``None`` if that was not measured.
        artifacts: What.
        cases: The times.
        skipped: What is not among them.
    """

    schema_version: int
    date: str
    command: str
    complete: bool
    confidence: float
    precision: float
    machine: Machine
    ceilings: Ceilings | None
    artifacts: tuple[Artifact, ...]
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...]

    def to_json(self) -> str:
        """Returns the text of ``results.json``, a case a line."""
        document = dataclasses.asdict(self)
        cases = ",\n".join(json.dumps(case) for case in document.pop("cases"))
        head = json.dumps(document | {"cases": []}, indent=1)
        return head.replace('"cases": []', f'"cases": [\n{cases}\n ]') + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({exc.strerror}); free some space, or mend its rights") from exc


def read_results(path: Path) -> Results:
    """Reads and checks results.

    Args:
        path: A ``results.json``, or the folder of a report that holds one.

    Raises:
        ResultsError: There are none, they cannot be read, or are of another schema.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"there is no {path}; make one with `python -m benchmarks ARTIFACT -o REPORT`") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise ResultsError(f"{path} cannot be read ({exc}); measure again") from exc
    return _decode(document, path)


def _decode(document: Any, path: Path) -> Results:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise ResultsError(f"{path} has no schema_version, so it does not hold results of `python -m benchmarks`")
    if version != SCHEMA_VERSION:
        way_out = "upgrade embedding-backbones" if version > SCHEMA_VERSION else "measure again"
        raise ResultsError(f"{path} has schema {version}, this version reads {SCHEMA_VERSION}; {way_out}")
    try:
        return decode(Results, document, "results")
    except ManifestError as exc:
        raise ResultsError(f"{path} does not follow schema {SCHEMA_VERSION}: {exc}; measure again") from exc
