"""Fuse attention, normalizations and activations, with the rewriters of onnxscript and of ONNX Runtime.

onnxscript's rules match the graphs of torch's current exporter. ``onnxruntime.transformers.optimizer`` finds no
attention in them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from onnxscript.rewriter.ort_fusions import shape_optimization, skip_normalization
from onnxscript.rewriter.ort_fusions.attention import fuse_attention
from onnxscript.rewriter.ort_fusions.bias_gelu import fuse_bias_gelu
from onnxscript.rewriter.ort_fusions.erfgelu import fuse_erfgelu
from onnxscript.rewriter.ort_fusions.gelu import fuse_gelu
from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
from onnxscript.rewriter.ort_fusions.mha_bias import fuse_mha_bias
from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
from onnxscript.rewriter.ort_fusions.sdpa_via_mha import replace_sdpa_by_mha

from exporters.graph.onnx_file import load_graph, write_graph
from exporters.graph.strip_metadata import strip_metadata
from exporters.passes.key_lengths import use_key_lengths
from runtime.artifact.variants import Level
from runtime.errors import UsageError
from runtime.machine import cpu
from runtime.session.options import SLOW_ON_CPU, session_options
from runtime.session.providers import import_onnxruntime

LAYOUT_FLAG = "avx512f"  # with it ONNX Runtime lays out convolutions in blocks of 16 channels, without it of 8


def fuse(graph: Path, output: Path, level: Level, *, products: bool = True, for_gpus: bool = False) -> str | None:
    """Write an optimized copy of ``graph`` to ``output``.

    Args:
        graph: The ONNX file.
        output: The new ONNX file.
        level: ``basic`` simplifies the graph with ONNX's own operators. ``extended`` fuses attention and GELU with bias
            into ONNX Runtime's operators. ``all`` also optimizes for this machine's CPU, including the layout of
            convolutions.
        products: Whether to fuse the projections of query, key and value into the attention operator. int8 cannot
            quantize them there.
        for_gpus: Whether attention gets lengths instead of mask values, and an addition is fused with the normalization
            after it. On the CPU, ONNX Runtime 1.31's operator takes three times as long as the two that it replaces.

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
    _fuse_transformer(model, products=products, skips=for_gpus)
    if for_gpus:
        use_key_lengths(model)
    strip_metadata(model)
    if level == "extended":
        return write_graph(output, model, fused=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        fused = Path(folder, "fused.onnx")
        write_graph(fused, model, fused=True)
        return _optimize_by_onnxruntime(fused, output, "ORT_ENABLE_ALL")


def _fuse_transformer(model: ir.Model, *, products: bool, skips: bool) -> None:
    """Fuse the parts of a transformer in ``model``, in the order of onnxscript's ``fuse_xformers``."""
    passes.ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    fuse_erfgelu(model)
    fuse_rms_normalization(model)
    if skips:
        skip_normalization.fuse_skip_layer_normalization(model)
        skip_normalization.fuse_skip_rms_normalization(model)
    passes.CommonSubexpressionEliminationPass()(model)
    fuse_sdpa(model, apply_shape_inference=True)
    attention = (fuse_mha1, fuse_mha2, fuse_mha_scale, fuse_mha_bias, *((fuse_attention,) if products else ()))
    for fuse_one in (*attention, fuse_gelu, fuse_bias_gelu, replace_sdpa_by_mha):
        fuse_one(model)
    optimize(model)  # inlines the functions of partial fusions
    passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=1)(model)
    passes.ShapeInferencePass()(model)


def _optimize_by_onnxruntime(graph: Path, output: Path, optimization: str) -> str | None:
    ort: Any = import_onnxruntime()
    config = {"session.optimized_model_external_initializers_file_name": "weights"}
    options = session_options(threads=0, optimization=optimization, config=config)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_ON_CPU)
        optimized = load_graph(Path(options.optimized_model_filepath))
        return write_graph(output, optimized, fused=optimization != "ORT_ENABLE_BASIC")
