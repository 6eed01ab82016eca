"""Fuses what lies around matrix products and leaves them as they are, so that they can be computed in 8 bits."""

from __future__ import annotations

from pathlib import Path

from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from onnxscript.rewriter.ort_fusions import shape_optimization
from onnxscript.rewriter.ort_fusions.bias_gelu import fuse_bias_gelu
from onnxscript.rewriter.ort_fusions.erfgelu import fuse_erfgelu
from onnxscript.rewriter.ort_fusions.gelu import fuse_gelu
from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
from onnxscript.rewriter.ort_fusions.mha_bias import fuse_mha_bias
from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
from onnxscript.rewriter.ort_fusions.sdpa_via_mha import replace_sdpa_by_mha
from onnxscript.rewriter.ort_fusions.skip_normalization import (
    fuse_skip_layer_normalization,
    fuse_skip_rms_normalization,
)

from exporters.graph_file import load_graph, write_graph
from exporters.passes.strip_metadata import strip_metadata

_NORMALIZATIONS = (
    fuse_erfgelu,
    fuse_rms_normalization,
    fuse_skip_layer_normalization,
    fuse_skip_rms_normalization,
)
_ATTENTION = (fuse_mha1, fuse_mha2, fuse_mha_scale, fuse_mha_bias, fuse_gelu, fuse_bias_gelu, replace_sdpa_by_mha)


def fuse_around_products(graph: Path, output: Path) -> str | None:
    """Writes ``graph`` to ``output``, fused by onnxscript's rules in their own order, less the last one for attention.

    That one would take the weights of query, key and value into its operator, which knows no constant ranges.

    Args:
        graph: The ONNX file.
        output: The new one.

    Returns:
        The name of the file of weights beside ``output``, or ``None``.
    """
    model = load_graph(graph)
    passes.ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    for fuse_one in _NORMALIZATIONS:
        fuse_one(model)
    passes.CommonSubexpressionEliminationPass()(model)
    fuse_sdpa(model, apply_shape_inference=True)
    for fuse_one in _ATTENTION:
        fuse_one(model)
    optimize(model)  # inlines what was fused half-way
    passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=1)(model)
    passes.ShapeInferencePass()(model)
    strip_metadata(model)
    return write_graph(output, model, fused=True)
