"""Fuse attention, normalizations and activations, with the rewriters of onnxscript and of ONNX Runtime.

onnxscript's rules match the graphs of torch's current exporter. ``onnxruntime.transformers.optimizer`` finds no
attention in them.
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
from runtime.machine import cpu
from runtime.session.options import SLOW_ON_CPU, session_options
from runtime.session.providers import import_onnxruntime

LAYOUT_FLAG = "avx512f"  # with it ONNX Runtime lays out convolutions in blocks of 16 channels, without it of 8


def fuse(graph: Path, output: Path, level: Level, *, skips: bool = False) -> str | None:
    """Write an optimized copy of ``graph`` to ``output``.

    Args:
        graph: The ONNX file.
        output: The new ONNX file.
        level: ``basic`` simplifies the graph with ONNX's own operators. ``extended`` fuses attention and GELU with bias
            into ONNX Runtime's operators. ``all`` also optimizes for this machine's CPU, including the layout of
            convolutions.
        skips: See :func:`exporters.passes.fuse_transformer.fuse_transformer`.

    Returns:
        The name of the weights file beside ``output``, or ``None``.

    Raises:
        UsageError: The level is ``all`` and this CPU has no AVX-512.
    """
    if level == "basic":
        return _optimize_by_onnxruntime(graph, output, "ORT_ENABLE_BASIC")
    if level == "all" and LAYOUT_FLAG not in cpu.cpu_flags():
        raise UsageError("level all lays weights out for CPUs with AVX-512, and this CPU has none; use level extended")
    model = load_graph(graph)
    fuse_transformer(model, products=True, skips=skips)
    strip_metadata(model)
    if level == "extended":
        return write_graph(output, model, fused=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        fused = Path(folder, "fused.onnx")
        write_graph(fused, model, fused=True)
        return _optimize_by_onnxruntime(fused, output, "ORT_ENABLE_ALL")


def fuse_around_products(graph: Path, output: Path) -> str | None:
    """Write a fused copy of ``graph`` to ``output`` that keeps its matrix products, so that int8 can quantize them.

    Args:
        graph: The ONNX file.
        output: The new ONNX file.

    Returns:
        The name of the weights file beside ``output``, or ``None``.
    """
    model = load_graph(graph)
    fuse_transformer(model, products=False, skips=False)
    strip_metadata(model)
    return write_graph(output, model, fused=True)


def _optimize_by_onnxruntime(graph: Path, output: Path, optimization: str) -> str | None:
    ort: Any = import_onnxruntime()
    config = {"session.optimized_model_external_initializers_file_name": "weights"}
    options = session_options(threads=0, optimization=optimization, config=config)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_ON_CPU)
        optimized = load_graph(Path(options.optimized_model_filepath))
        return write_graph(output, optimized, fused=optimization != "ORT_ENABLE_BASIC")
