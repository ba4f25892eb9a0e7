"""The LayerNorm unit: exact integer sums, then a reciprocal square root by table and one Newton step."""

from __future__ import annotations

import numpy as np

from hwattn.spec.numbers import GATE_LIMIT, Int64, bit_length, round_shift, saturate
from hwattn.spec.tables import RSQRT_FIRST, reciprocal_square_root_table
from hwattn.spec.widths import NORMAL_BITS, VARIANCE_BITS


def reciprocal_square_root(variance: Int64) -> tuple[Int64, Int64]:
    """Return the reciprocal square root as a 16-bit significand and the shift that goes with it.

    Parameters
    ----------
    variance : ndarray of int64
        V = D * SS - S**2 + epsilon, ``1 <= V < 2**54``.

    Returns
    -------
    significand, shift : ndarray of int64
        ``significand / 2**shift`` is about ``2**NORMAL_FRACTION / sqrt(V)``.
    """
    left = (VARIANCE_BITS - bit_length(variance)) & ~np.int64(1)
    top = (variance << left) >> 36
    guess = reciprocal_square_root_table()[(top >> 10) - RSQRT_FIRST]
    square = np.minimum((guess * guess) >> 14, (1 << 18) - 1)
    correction = (3 * (1 << 34) - square * top + (1 << 17)) >> 18
    significand = np.minimum((guess * correction + (1 << 16)) >> 17, 65535)
    return significand, 31 - (left >> 1)


def normalize(x: Int64, epsilon: int, *, zero_mean: bool = False) -> Int64:
    """Return z = (x - mean) / sqrt(variance + eps) with 11 fraction bits, 18 bits.

    Parameters
    ----------
    x : ndarray of int64, shape (..., D)
        16 bits signed, D at most 4096.
    epsilon : int
        Added to ``D * SS - S**2``, at least 1.
    zero_mean : bool
        Take the mean as zero (RMSNorm): S is 0. D is at most 4095 then.

    Returns
    -------
    ndarray of int64, shape (..., D)
    """
    x = np.asarray(x, np.int64)
    dim = x.shape[-1]
    total = np.int64(0) if zero_mean else x.sum(axis=-1, keepdims=True)
    variance = dim * (x * x).sum(axis=-1, keepdims=True) - total * total + epsilon
    significand, shift = reciprocal_square_root(variance)
    return saturate(round_shift((dim * x - total) * significand, shift), NORMAL_BITS)


def layer_norm(
    x: Int64, gamma: Int64, beta: Int64, epsilon: int, shift: int, *, zero_mean: bool = False
) -> tuple[Int64, Int64]:
    """Normalize int16 vectors, scale and shift them.

    Parameters
    ----------
    x : ndarray of int64, shape (..., D)
        16 bits signed.
    gamma, beta : ndarray of int64, shape (D,)
        16 and 32 bits signed.
    epsilon : int
        Added to ``D * SS - S**2``, at least 1.
    shift : int
        Right shift of ``z * gamma + beta``, at least 9.
    zero_mean : bool
        Take the mean as zero (RMSNorm).

    Returns
    -------
    out8, wide16 : ndarray of int64, shape (..., D)
        The int8 result, and the gate operand with 8 more bits, clipped to +-GATE_LIMIT.
    """
    u = normalize(x, epsilon, zero_mean=zero_mean) * gamma + beta
    wide = np.clip(round_shift(u, shift - 8), -GATE_LIMIT, GATE_LIMIT)
    return saturate(round_shift(u, shift), 8), wide
