"""OpenVINO by its own package, without onnxruntime: compiles the artifact's float32 graph for the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.peer import Peer, PeerError, find_python, find_ways, reporting
from benchmarks.contenders.protocol import Subject, Way
from benchmarks.results.schema import Precision, Skipped
from runtime.artifact.reader import read_manifest
from runtime.machine.cpu import bf16_units

NAME = "openvino"
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
Array = np.ndarray[Any, Any]


def find(subject: Subject) -> tuple[list[Way], list[Skipped]]:
    """Returns how OpenVINO can run ``subject``'s graph here, and why not in other ways."""
    return find_ways(subject, NAME, {"fp32": partial(_way, precision="fp32"), "bf16": _bf16_way})


def load(way: Way, threads: int, scratch: Path) -> Peer:
    """Compiles the graph for low latency in ``way.precision``.

    Raises:
        PeerError: OpenVINO cannot compile it, or would use other threads or another precision.
        ArtifactError: The folder is no artifact.
    """
    tower = read_manifest(Path(way.model)).towers[way.tower]
    graph = Path(way.model) / tower.graph
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[way.precision],
    }
    with reporting(NAME, f"load {graph}"):
        import openvino

        model = openvino.Core().compile_model(str(graph), "CPU", settings)
        _check(model, threads, settings["INFERENCE_PRECISION_HINT"])

    def embed(arrays: Mapping[str, Array]) -> Any:
        return model(dict(arrays))[tower.output.name]

    return Peer(name=NAME, from_arrays=embed)


def _check(model: Any, threads: int, precision: object) -> None:
    """Refuses what OpenVINO changed of the settings: it takes them for hints."""
    actual = model.get_property("INFERENCE_NUM_THREADS")
    if actual != threads:
        raise PeerError(f"OpenVINO would run with {actual} threads in place of {threads}; measure with {actual}")
    compiled_for = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    if compiled_for != precision:
        raise PeerError(f"OpenVINO compiled for {compiled_for} in place of {precision}")


def _way(subject: Subject, *, precision: Precision) -> Way:
    return Way(
        contender=NAME,
        variant=precision,
        provider="cpu",
        precision=precision,
        stages=("graph",),
        model=str(subject.folder.resolve()),
        tower=subject.tower,
        python=find_python(subject, NAME, [NAME]),
    )


def _bf16_way(subject: Subject) -> Way:
    if not bf16_units():
        raise PeerError("this CPU has no units for bfloat16 (AMX or AVX512-BF16), and OpenVINO would emulate them")
    return _way(subject, precision="bf16")
