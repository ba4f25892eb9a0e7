"""The matrix unit: exact integer matrix products at the speed of floating-point BLAS."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.numbers import Int64, round_shift
from hwattn.spec.widths import LOW_PASS_SHIFT

_SERIAL_WORK = 1 << 18
"""Multiply-accumulates below which BLAS starts no threads, whose waiting for each other costs more than they save."""

_EXACT_FLOAT32 = 1 << 24
_EXACT_FLOAT64 = 1 << 53


def product_bound(length: int, *operands: NDArray[Any]) -> int:
    """Return the largest magnitude that a dot product of `length` elements of the operands' 8-bit types can reach."""
    bound = length
    for operand in operands:
        bound *= _magnitude(operand.dtype)
    return bound


@cache
def _magnitude(dtype: np.dtype[Any]) -> int:
    limits = np.iinfo(dtype)
    return max(-int(limits.min), int(limits.max))


def exact_type(bound: int) -> type[np.floating[Any]]:
    """Return the narrowest floating-point type whose partial sums up to `bound` are all exact.

    Raises
    ------
    ValueError
        Not even float64 is exact.
    """
    if bound <= _EXACT_FLOAT32:
        return np.float32
    if bound <= _EXACT_FLOAT64:
        return np.float64
    raise ValueError(f"a dot product of up to {bound} is not exact in float64 (at most {_EXACT_FLOAT64})")


def matrix_product(resident: NDArray[Any], streamed: NDArray[Any]) -> Int64:
    """Multiply resident rows by streamed rows: ``C[..., p, j] = sum_i resident[..., p, i] * streamed[..., j, i]``.

    Parameters
    ----------
    resident : ndarray of int8 or uint8, shape (..., rows, length)
    streamed : ndarray of int8, shape (columns, length) or (..., columns, length)

    Returns
    -------
    ndarray of int64, shape (..., rows, columns)
        Exact: every partial sum is an integer that the floating-point type holds, in whatever order BLAS adds.
    """
    kind = exact_type(product_bound(resident.shape[-1], resident, streamed))
    left, right = resident.astype(kind), streamed.astype(kind)
    if right.ndim > 2:
        return np.asarray((left @ np.swapaxes(right, -1, -2)).astype(np.int64))
    flat = left.reshape(-1, left.shape[-1])
    product = np.empty((len(flat), len(right)), kind)
    part = max(1, _SERIAL_WORK // max(1, right.size))
    for start in range(0, len(flat), part):
        np.matmul(flat[start : start + part], right.T, out=product[start : start + part])
    return product.astype(np.int64).reshape(*left.shape[:-1], len(right))


def low_pass(dot: Int64) -> Int64:
    """Scale the pass over the low bytes of a 16-bit operand: shifted right by 8 bits, rounded."""
    return round_shift(dot, LOW_PASS_SHIFT)


def rescale(old: Int64, growth: Int64) -> Int64:
    """Shift accumulators (..., rows, columns) right by the growth (..., rows) of their row's maximum, rounded."""
    return round_shift(old, growth[..., None])
