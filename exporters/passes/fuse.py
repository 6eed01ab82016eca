"""Fuses operators: attention, normalisations and activations, by onnxscript's rewriter and ONNX Runtime's own.

onnxscript's rules know the graphs that torch's exporter makes today, where ``onnxruntime.transformers.optimizer`` finds
no attention in them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from exporters.graph.onnx_file import load_graph, write_graph
from exporters.graph.strip_metadata import strip_metadata
from exporters.passes.fuse_transformer import fuse_transformer
from runtime.artifact.variants import Level
from runtime.errors import UsageError
from runtime.machine import cpu as hardware
from runtime.session.providers import import_onnxruntime
from runtime.session.options import SLOW_ON_CPU

LAYOUT_FLAG = "avx512f"  # by which ONNX Runtime lays out convolutions in blocks of 16 channels, elsewhere of 8


def fuse(graph: Path, output: Path, level: Level, *, skips: bool = False) -> str | None:
    """Writes ``graph`` to ``output``, optimized.

    Args:
        graph: The ONNX file.
        output: The new one.
        level: ``basic``: what ONNX Runtime simplifies within ONNX's own operators. ``extended``: attention
            and GELU with bias in its own operators. ``all``: then also what it does for this machine's CPU, its layout
            of convolutions included.
        skips: See :func:`exporters.passes.fuse_transformer.fuse_transformer`.

    Returns:
        The name of the file of weights beside ``output``, or ``None``.

    Raises:
        UsageError: ``all`` is asked for on a CPU of another layout than the one that is usual.
    """
    if level == "basic":
        return _by_onnxruntime(graph, output, "ORT_ENABLE_BASIC")
    if level == "all" and LAYOUT_FLAG not in hardware.cpu_flags():
        raise UsageError("level all lays weights out for CPUs with AVX-512, which this one lacks; take extended")
    model = load_graph(graph)
    fuse_transformer(model, products=True, skips=skips)
    strip_metadata(model)
    if level == "extended":
        return write_graph(output, model, fused=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        fused = Path(folder, "fused.onnx")
        write_graph(fused, model, fused=True)
        return _by_onnxruntime(fused, output, "ORT_ENABLE_ALL")


def fuse_around_products(graph: Path, output: Path) -> str | None:
    """Writes ``graph`` to ``output``, fused, with its matrix products as they are, so that they can be in 8 bits.

    Args:
        graph: The ONNX file.
        output: The new one.

    Returns:
        The name of the file of weights beside ``output``, or ``None``.
    """
    model = load_graph(graph)
    fuse_transformer(model, products=False, skips=False)
    strip_metadata(model)
    return write_graph(output, model, fused=True)


def _by_onnxruntime(graph: Path, output: Path, level: str) -> str | None:
    ort: Any = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = (
        3  # it warns that a graph of level all is for this machine, which the manifest says too
    )
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_ON_CPU)
        return write_graph(
            output, load_graph(Path(options.optimized_model_filepath)), fused=level != "ORT_ENABLE_BASIC"
        )
