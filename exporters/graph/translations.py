"""Operators of torch, written in ONNX as ONNX Runtime knows and fuses them; torch's exporter writes others there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import BOOL, FLOAT, opset18

op: Any = opset18

_LOWEST = torch.finfo(torch.float32).min


def _gelu(x: FLOAT, approximate: str = "none") -> FLOAT:
    """In the form that ONNX Runtime fuses with the bias before: half comes last. It changes no bit, wherever it comes.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.GELU.html
    """
    if approximate == "tanh":
        bent = op.Tanh(op.Mul(op.Add(x, op.Mul(op.Pow(x, 3.0), 0.044715)), math.sqrt(2 / math.pi)))
    else:
        bent = op.Erf(op.Div(x, math.sqrt(2)))
    result: FLOAT = op.Mul(op.Mul(x, op.Add(bent, 1.0)), 0.5)
    return result


def _attention(
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    attn_mask: FLOAT | BOOL | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> FLOAT:
    """Softmax of scaled products. A mask is the lowest number and not infinity, whose softmax need not be mended.

    That differs from torch's only where all tokens are masked, which a tokenizer never does: torch has zeros there, and
    this their mean. Its exporter looks for NaN in every layer instead, and transposes keys twice.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
    """
    if enable_gqa or query.shape is None or not isinstance(query.shape[-1], int):
        raise NotImplementedError("attention with grouped queries, or with heads of an unknown size")
    axes = list(range(len(query.shape)))
    products = op.MatMul(query, op.Transpose(key, perm=[*axes[:-2], axes[-1], axes[-2]]))
    scores = op.Mul(products, query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        size = op.Concat(op.Shape(query, start=-2, end=-1), op.Shape(key, start=-2, end=-1), axis=0)
        attn_mask = op.Cast(op.Trilu(op.Expand(1.0, size), upper=0), to=ir.DataType.BOOL)
        scores = op.Add(scores, op.Where(attn_mask, 0.0, _LOWEST))
    elif attn_mask is not None:
        is_float = attn_mask.dtype != ir.DataType.BOOL
        scores = op.Add(scores, attn_mask if is_float else op.Where(attn_mask, 0.0, _LOWEST))
    result: FLOAT = op.MatMul(op.Softmax(scores, axis=-1), value)
    return result


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.gelu.default: _gelu,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}
"""What torch's exporter is to write for each operator of this file."""
