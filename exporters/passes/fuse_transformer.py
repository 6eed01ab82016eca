"""Fuses what a transformer is made of, by onnxscript's rules, which know the graphs that torch's exporter makes."""

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
    """Fuses attention, normalisations and activations in ``model``, in the order of onnxscript's own ``fuse_xformers``.

    Args:
        model: The graph.
        products: Whether attention takes the weights of query, key and value into its operator, which then knows no
            constant ranges, so that they cannot be in 8 bits.
        skips: Whether an addition goes into the normalisation after it. It is meant for GPUs; on the CPU, ONNX
            Runtime 1.31's operator takes three times as long as the two that it replaces.
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
    optimize(model)  # inlines what was fused half-way
    passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=1)(model)
    passes.ShapeInferencePass()(model)
