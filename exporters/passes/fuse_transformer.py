"""Fuse the parts of a transformer with onnxscript's rules, which match the graphs of torch's exporter."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from onnxscript.rewriter.ort_fusions import shape_optimization
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
from onnxscript.rewriter.ort_fusions.skip_normalization import (
    fuse_skip_layer_normalization,
    fuse_skip_rms_normalization,
)


def fuse_transformer(model: ir.Model, *, products: bool, skips: bool) -> None:
    """Fuse attention, normalizations and activations in ``model``, in the order of onnxscript's ``fuse_xformers``.

    Args:
        model: The graph, which is changed.
        products: Whether to fuse the projections of query, key and value into the attention operator. int8 cannot
            quantize them there.
        skips: Whether to fuse an addition with the normalization after it. This is for GPUs: on the CPU, ONNX Runtime
            1.31's operator takes three times as long as the two that it replaces.
    """
    passes.ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    fuse_erfgelu(model)
    fuse_rms_normalization(model)
    if skips:
        fuse_skip_layer_normalization(model)
        fuse_skip_rms_normalization(model)
    passes.CommonSubexpressionEliminationPass()(model)
    fuse_sdpa(model, apply_shape_inference=True)
    attention = (fuse_mha1, fuse_mha2, fuse_mha_scale, fuse_mha_bias, *((fuse_attention,) if products else ()))
    for fuse_one in (*attention, fuse_gelu, fuse_bias_gelu, replace_sdpa_by_mha):
        fuse_one(model)
    optimize(model)  # inlines the functions of partial fusions
    passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=1)(model)
    passes.ShapeInferencePass()(model)
