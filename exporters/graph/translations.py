"""Translate torch operators to the ONNX patterns that ONNX Runtime fuses; torch's exporter writes other patterns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import BOOL, FLOAT, INT64, opset18
from onnxscript.onnx_types import TensorType

op: Any = opset18

_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_LOWEST = torch.finfo(torch.float32).min


def _gelu(x: FLOAT, approximate: str = "none") -> FLOAT:
    """Write GELU in the form that ONNX Runtime fuses with the bias before it: the factor 0.5 comes last.

    The position of the factor 0.5 does not change any bit of the result.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.GELU.html
    """
    if approximate == "tanh":
        inner = op.Tanh(op.Mul(op.Add(x, op.Mul(op.Pow(x, 3.0), 0.044715)), math.sqrt(2 / math.pi)))
    else:
        inner = op.Erf(op.Div(x, math.sqrt(2)))
    result: FLOAT = op.Mul(op.Mul(x, op.Add(inner, 1.0)), 0.5)
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
    """Write scaled dot-product attention with float32's minimum, not infinity, as the mask value.

    The softmax of such a mask is never NaN. torch's exporter checks every layer for NaN instead, and transposes the
    keys twice. Results differ from torch's only for a row whose tokens are all masked, and no tokenizer makes one.
    torch gives zeros for that row; this translation gives the mean of the values.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
    """
    if enable_gqa or query.shape is None or not isinstance(query.shape[-1], int):
        raise NotImplementedError("attention with grouped queries or with an unknown head size")
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


def _argmax(x: TensorType, dim: int | None = None, keepdim: bool = False) -> INT64:
    """Write the index of the largest value. For integers, it is the first one in every provider.

    CUDA has no ArgMax of integers, and its ArgMax of floats does not promise the first of equal values. So integers are
    compared in float64, minus their position in units of 2**-21. This is exact for values of 32 bits and for up to
    2**21 positions.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.argmax.html
    """
    if dim is None:
        x, dim = op.Reshape(x, [-1]), 0
    elif x.dtype in _INTEGERS and x.shape is not None:
        axis = dim % len(x.shape)
        positions = op.Range(0, op.Squeeze(op.Shape(x, start=axis, end=axis + 1)), 1)
        trailing = list(range(1, len(x.shape) - axis))
        places = op.Cast(op.Unsqueeze(positions, trailing) if trailing else positions, to=ir.DataType.DOUBLE)
        step = op.Cast(op.Constant(value_float=2.0**-21), to=ir.DataType.DOUBLE)
        x = op.Sub(op.Cast(x, to=ir.DataType.DOUBLE), op.Mul(places, step))
    result: INT64 = op.ArgMax(x, axis=dim, keepdims=int(keepdim))
    return result


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.argmax.default: _argmax,
    torch.ops.aten.gelu.default: _gelu,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}
"""The translation of each torch operator, for ``custom_translation_table`` of ``torch.onnx.export``."""
