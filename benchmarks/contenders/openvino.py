"""Run the artifact's float32 graph on the CPU with the package ``openvino``, without onnxruntime."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.peer import Peer, PeerError, collect_setups, find_python, reporting
from benchmarks.contenders.protocol import Setup, Target
from benchmarks.results.schema import Precision, Skipped
from runtime.artifact.reader import read_manifest
from runtime.machine.cpu import bf16_units

NAME = "openvino"
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
VARIANTS = tuple(_PRECISIONS)


def find(target: Target) -> tuple[list[Setup], list[Skipped]]:
    """Return OpenVINO's setups for ``target``, and the reasons for missing ones."""
    return collect_setups(target, NAME, {"fp32": partial(_setup, precision="fp32"), "bf16": _bf16_setup})


def load(setup: Setup, threads: int, scratch: Path) -> Peer:
    """Compile the graph for low latency in ``setup.precision``.

    Raises:
        PeerError: OpenVINO cannot compile the graph, or would use other threads or another precision.
        ArtifactError: The folder is not an artifact.
    """
    tower = read_manifest(Path(setup.model)).towers[setup.tower]
    graph = Path(setup.model) / tower.graph
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[setup.precision],
    }
    with reporting(NAME, f"load {graph}"):
        import openvino

        model = openvino.Core().compile_model(str(graph), "CPU", settings)
        _check(model, threads, settings["INFERENCE_PRECISION_HINT"])

    return Peer(name=NAME, from_arrays=lambda arrays: model(dict(arrays))[tower.output.name])


def _check(model: Any, threads: int, precision: object) -> None:
    """Check that OpenVINO keeps the settings. To OpenVINO they are only hints."""
    actual = model.get_property("INFERENCE_NUM_THREADS")
    if actual != threads:
        raise PeerError(f"OpenVINO would use {actual} threads instead of {threads}; set --threads {actual}")
    compiled_for = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    if compiled_for != precision:
        raise PeerError(f"OpenVINO compiled for {compiled_for} instead of {precision}")


def _setup(target: Target, *, precision: Precision) -> Setup:
    return Setup(
        contender=NAME,
        variant=precision,
        precision=precision,
        stages=("graph",),
        model=str(target.folder.resolve()),
        tower=target.tower,
        python=find_python(target, NAME, [NAME]),
    )


def _bf16_setup(target: Target) -> Setup:
    if not bf16_units():
        raise PeerError("this CPU has no bfloat16 instructions (AMX or AVX512-BF16); OpenVINO would emulate them")
    return _setup(target, precision="bf16")
