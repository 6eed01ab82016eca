"""Round weights to 8 bits so that the errors of the rows of a matrix cancel out (GPTQ).

Rounding to the nearest integer ignores the activations. GPTQ rounds one row after another, and corrects the rows that
are still exact for the error of the last one. The correction follows from the Gram matrix of the activations.
Source: GPTQ, algorithm 1 (https://arxiv.org/abs/2210.17323).
"""

from __future__ import annotations

import numpy as np

from runtime.array_types import Array

_LARGEST = 127  # of a signed 8-bit weight; onnxruntime's symmetric range does not use -128
_DAMPING = 0.01  # share of the mean diagonal that is added to the Gram matrix; GPTQ's own value
_BLOCK = 128  # rows that are corrected for all later ones in one product


def round_to_nearest(weights: Array) -> Array:
    """Return ``weights``, rounded to 8 bits with a scale per column, as onnxruntime's quantizer does."""
    scales = _scales(weights)
    rounded: Array = (_nearest(weights, scales) * scales).astype(np.float32)
    return rounded


def round_weights(weights: Array, gram: Array) -> Array:
    """Return ``weights``, rounded to 8 bits with a scale per column, so that their product stays close.

    onnxruntime's quantizer gives the result the same scales and integers. A column keeps the nearest integers if these
    are better, or if its largest integer, from which the quantizer computes the scale, would change.

    Args:
        weights: ``[rows, columns]`` float32; the activations are multiplied with the rows.
        gram: Gram matrix of the activations, ``[rows, rows]``.
    """
    scales = _scales(weights)
    nearest, compensated = _nearest(weights, scales), _compensate(weights, gram, scales)
    before, after = nearest * scales - weights, compensated * scales - weights
    # The squared error of a column is e' gram e, and a difference of two squares takes one large product, not two.
    gain = np.einsum("rc,rc->c", before - after, gram @ (before + after))
    better = (gain > 0) & (np.abs(compensated).max(axis=0) == _LARGEST)
    return (np.where(better, compensated, nearest) * scales).astype(np.float32)


def _scales(weights: Array) -> Array:
    scales: Array = np.abs(weights).max(axis=0) / _LARGEST
    scales[scales == 0] = 1
    return scales


def _nearest(weights: Array, scales: Array) -> Array:
    rounded: Array = np.clip(np.rint(weights / scales), -_LARGEST, _LARGEST)
    return rounded


def _compensate(weights: Array, gram: Array, scales: Array) -> Array:
    """Return integers, whose row with the largest activations comes first, because later rows can correct it.

    With the Cholesky factor R of the Gram matrix, the error of the product is R times the error of the weights. So the
    last row of R is made small first, and each row before it takes the errors of the later ones into account. This
    gives the same integers as algorithm 1 without an inverse. Source: https://arxiv.org/abs/2507.18553
    """
    order = np.argsort(np.diagonal(gram), kind="stable")
    factor = _cholesky(gram[np.ix_(order, order)])
    factor /= np.diagonal(factor)[:, None]
    exact, integers = weights[order], np.empty_like(weights)
    errors = np.zeros_like(exact)
    for end in range(len(exact), 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        corrections = factor[start:end, end:] @ errors[end:]
        for row in range(end - 1, start - 1, -1):
            target = exact[row] + corrections[row - start] + factor[row, row + 1 : end] @ errors[row + 1 : end]
            integers[row] = _nearest(target, scales)
            errors[row] = exact[row] - integers[row] * scales
    result = np.empty_like(integers)
    result[order] = integers
    return result


def _cholesky(gram: Array) -> Array:
    """Return the upper Cholesky factor of the damped Gram matrix, ``[rows, rows]`` float32."""
    damped = gram.astype(np.float64)
    mean = float(np.diagonal(damped).mean())
    damped[np.diag_indices_from(damped)] += _DAMPING * mean if mean > 0 else 1
    factor: Array = np.linalg.cholesky(damped).T.astype(np.float32)
    return factor
