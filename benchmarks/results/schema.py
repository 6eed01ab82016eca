"""Schema of benchmark results: raw times and the conditions of their measurement. ``statistics`` derives the rest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError, ManifestError

SCHEMA_VERSION = 5
OLDEST_READABLE = 2  # fields that later schemas added have their default in older results
RESULTS_FILE = "results.json"
TIMED_ITEMS = 16  # items of a turn at the stage end_to_end; every batch size has the same ones
MAX_STEAL = 0.05  # share of the CPU time that a turn asked for; a turn that lost more counts as disturbed

Stage = Literal["graph", "end_to_end"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Device = Literal["cpu", "cuda"]
T = TypeVar("T")


class ResultsError(EmbeddingBackbonesError):
    """A results file is missing, unreadable, or of another schema."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that the benchmark could use."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, kw_only=True)
class BenchmarkMachine:
    """Machine on which the times were measured."""

    name: str  # name from `--machine`, by default the CPU and the GPUs; price files use this name.
    cpu: str
    architecture: str  # instruction set, such as `x86_64`.
    cpu_flags: tuple[str, ...]  # CPU features by their Linux names.
    cores: int  # logical cores of the machine.
    cores_allowed: int  # cores in the affinity mask.
    cpu_quota: float | None  # cores that the control group allows; `None` without a quota.
    threads: int  # threads of every contender.
    memory_bytes: int
    memory_limit_bytes: int | None  # memory that the control group allows; `None` without a limit.
    gpus: tuple[Gpu, ...]
    cuda: str | None  # version of CUDA that onnxruntime was built with; `None` without a GPU.
    cudnn: str | None  # version of the cuDNN library found; `None` without a GPU.
    system: str
    python: str
    packages: dict[str, str]  # versions of the packages involved.
    load_average: tuple[float, ...]  # load of the last 1, 5 and 15 minutes when the benchmark began.


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Highest measured rate of matrix multiplication."""

    device: Device
    precision: Precision  # data type of the matrices; int8 means unsigned times signed.
    engine: str
    ops_per_s: float  # operations per second for a large product; a multiplication and an addition are two operations.


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Limits of a machine: the roofline."""

    products: tuple[Ceiling, ...]  # the best engine for each device and precision.
    read_bytes_per_s: dict[str, float]  # memory bandwidth of each device.


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Artifact that was measured."""

    name: str
    backbone: str  # entry of the catalogue.
    task: str
    architecture: str
    output_dim: int
    weights: str  # description of the origin of its weights.
    random: bool  # whether the weights are random, so that the vectors mean nothing.
    seal: str  # hash of its manifest.


@dataclass(frozen=True, kw_only=True)
class Worst:
    """Item whose vector is far from its reference."""

    item: str  # beginning of the text, or name of the file.
    cosine: float


@dataclass(frozen=True, kw_only=True)
class CaseParity:
    """Parity of a case: its vectors compared with reference vectors."""

    reference: str  # origin of the reference, such as `torch eager, fp32`.
    items: int
    min_cosine: float
    p1_cosine: float  # first percentile of the cosine similarities.
    mean_cosine: float
    max_abs_error: float
    relative_error: float  # `max_abs_error` divided by the largest absolute value of the reference.
    overlap_at_10: float  # mean share of the ten nearest neighbours that are the same.
    worst: tuple[Worst, ...]  # the three worst items, the worst first.

    @property
    def with_torch(self) -> bool:
        """Whether the reference vectors are torch's. Without torch, they come from the artifact's own fp32 graph."""
        return self.reference.startswith("torch")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of one call, counted from the graph."""

    operations: int  # operations of matrix products and convolutions; a multiplication and an addition are two.
    read_bytes: int  # size of the inputs and of the weights as this variant stores them: a lower bound of reads.
    written_bytes: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """Measurement of one contender with one workload, in its own process."""

    artifact: str
    tower: TowerName
    contender: str  # library that embeds: `runtime` (this project), `torch`, `sentence-transformers` and so on.
    variant: str  # variant of the graph, or mode of torch.
    provider: str  # execution provider of onnxruntime, or device of torch.
    precision: Precision  # data type of most of the arithmetic.
    stage: Stage  # `graph`: arrays in, vectors out. `end_to_end`: files or strings in, vectors out.
    items: int  # items per call.
    tokens: int | None  # length of each text, padding included; `None` if lengths are mixed, or for other items.
    rounds: tuple[tuple[float, ...], ...]  # seconds of each call, by round. The contenders take turns in each round.
    yardstick: tuple[float, ...]  # seconds of a reference workload in each round. They show how fast the machine was.
    # steal time in each round, as a share of the CPU time that was asked for; 0 if the system does not report it.
    stolen: tuple[float, ...]
    # seconds of each call of turns that do not count, because their steal time was too high.
    left_out: tuple[tuple[float, ...], ...]
    start_s: float  # seconds from the start of the process until the model was loaded.
    first_s: float  # seconds of the first call.
    peak_bytes: int
    stages: dict[str, float]  # seconds of each step of a call, in order; empty if the steps were not timed.
    parity: CaseParity  # comparison with the reference vectors.
    work: Work | None  # work of one call; `None` if it was not counted.

    @property
    def label(self) -> str:
        """Contender, variant and provider, for display: ``runtime int8 on cpu``."""
        return f"{self.contender} {self.variant} on {self.provider}"

    @property
    def runtime_options(self) -> str:
        """Options of ``python -m runtime`` for this graph and provider; empty for other contenders."""
        if self.contender != "runtime":
            return ""
        in_bf16 = self.variant == "bf16"  # the graph fp32, computed in bfloat16
        dtype = f" --provider-option dtype={'bf16' if in_bf16 else 'fp32'}" if self.provider == "openvino" else ""
        return f"--provider {self.provider}{dtype} --variant {'fp32' if in_bf16 else self.variant}"

    @property
    def group(self) -> str:
        """Name of the group of cases that took turns with it: ``toy-text, text, graph, 8 x 64``."""
        return group_name(self.artifact, self.tower, self.stage, self.items, self.tokens)

    @property
    def torch_cosine(self) -> float | None:
        """Smallest cosine similarity to torch's vectors; ``None`` if they were not compared with torch."""
        return self.parity.min_cosine if self.parity.with_torch else None

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


def group_name(artifact: str, tower: str, stage: Stage, items: int, tokens: int | None) -> str:
    """Return the name of the cases with the same work."""
    length = f" x {tokens}" if tokens else ""
    return f"{artifact}, {tower}, {'graph' if stage == 'graph' else 'end to end'}, {items}{length}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Measurement that was not possible."""

    name: str  # artifact and contender, or `Case.group` and `Case.label` if the contender failed while it was measured.
    reason: str  # cause, and a remedy if there is one.


@dataclass(frozen=True, kw_only=True)
class OwnItems:
    """The user's own items of one kind."""

    source: str = field(compare=False)  # name of their file or folder.
    sha256: str  # hash of the items that the benchmark uses.


@dataclass(frozen=True, kw_only=True)
class TimedItems:
    """Items of one kind that the calls at the stage ``end_to_end`` repeat."""

    source: str  # description of their origin.
    are_texts: bool  # whether the items are texts; otherwise they are files.
    sizes: tuple[int, ...]  # characters of each text, or bytes of each file.

    @property
    def description(self) -> str:
        """Number, sizes and origin: ``16 texts of 20 to 900 characters (median 80), from mine.txt``."""
        return f"{describe_sizes(self.sizes, are_texts=self.are_texts)}, from {self.source}"


def describe_sizes(sizes: Sequence[int], *, are_texts: bool) -> str:
    """Return the number and the sizes of texts in characters, or of files in bytes."""
    ordered = sorted(sizes)
    noun, unit = ("texts", "characters") if are_texts else ("files", "bytes")
    return f"{len(ordered)} {noun} of {ordered[0]:,} to {ordered[-1]:,} {unit} (median {ordered[len(ordered) // 2]:,})"


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Options that decide which cases a run measures, and how. A run can only be resumed with the same ones."""

    contenders: tuple[str, ...]
    providers: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    stages: tuple[Stage, ...]
    rounds: int | None = None  # smallest number of rounds of each case; older results do not tell.
    seconds: float | None = None  # seconds of a contender after which no further round starts.
    weights: dict[str, str]  # values of `--weights`, by artifact.
    items: dict[TowerName, OwnItems]  # the user's own items by kind; other kinds have the built-in ones.


@dataclass(frozen=True, kw_only=True)
class PythonEnvironment:
    """Environment of an interpreter that `--python` names."""

    python: str
    packages: dict[str, str]  # versions of the packages involved.


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results of one run."""

    schema_version: int  # `SCHEMA_VERSION` at the time of writing.
    date: str  # start of the run in UTC: `2026-11-22T09:00:00+00:00`.
    command: str
    complete: bool  # whether every planned case was measured.
    confidence: float  # confidence level of the intervals, such as 0.95.
    precision: float  # half-width of the intervals at which rounds end, as a share of the time (`--half-width`).
    machine: BenchmarkMachine
    ceilings: Ceilings | None  # limits of the machine; `None` if they were not measured.
    artifacts: tuple[Artifact, ...]
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...]
    plan: PlanRecord | None = None  # options of the run; `None` in results of schema 2.
    # environments of `--python`, by contender or provider; empty in results of schema 2.
    environments: dict[str, PythonEnvironment] = field(default_factory=dict)
    # items that were timed end to end, by kind; results before schema 4 may lack them.
    timed_items: dict[TowerName, TimedItems] = field(default_factory=dict)
    # mean number of tokens of the texts that were timed end to end, by artifact; results before schema 5 may lack it.
    mean_tokens: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of ``results.json``, with one case per line."""
        return dump_json(dataclasses.asdict(self), by_line="cases")


def dump_json(document: Mapping[str, Any], *, by_line: str) -> str:
    """Return a document as indented JSON. The list ``by_line`` comes last, with one member per line."""
    members = ",\n".join(json.dumps(member) for member in document[by_line])
    rest = {name: value for name, value in document.items() if name != by_line}
    head = json.dumps(rest | {by_line: []}, indent=1)
    return head.replace(f'"{by_line}": []', f'"{by_line}": [\n{members}\n ]') + "\n"


def read_results(path: Path) -> Results:
    """Read and check results from a ``results.json``, or from a report's folder with this file.

    Raises:
        ResultsError: The file is missing, cannot be read, or has another schema.
    """
    readable = range(OLDEST_READABLE, SCHEMA_VERSION + 1)
    return read_versioned(Results, path, "schema_version", readable, "python -m benchmarks ARTIFACT -o REPORT")


def read_versioned(kind: type[T], path: Path, version_field: str, readable: range, command: str) -> T:
    """Read and check a ``results.json``, or that of a report's folder, as an instance of ``kind``.

    Args:
        kind: Dataclass of the whole document.
        path: The file, or its folder.
        version_field: Name of the field with the version of the schema.
        readable: Versions that can be read. Fields that the last one added have their default in older documents.
        command: Command that writes such documents, for errors.

    Raises:
        ResultsError: The file is missing, cannot be read, or has another schema.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path} does not exist; create it with `{command}`") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise ResultsError(f"cannot read {path} ({exc}); run the benchmark again") from exc
    version = document.get(version_field) if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise ResultsError(f"{path} has no {version_field}; name a results.json of `{command}`")
    if version not in readable:
        remedy = "upgrade embedding-backbones" if version > readable[-1] else "run the benchmark again"
        known = f"{readable[0]} to {readable[-1]}" if len(readable) > 1 else f"{readable[0]}"
        raise ResultsError(f"{path} has schema {version}, this version reads {known}; {remedy}")
    try:
        return decode(kind, document, "results", fill_defaults=version < readable[-1])
    except ManifestError as exc:
        raise ResultsError(f"{path} violates schema {version} ({exc}); run the benchmark again") from exc
