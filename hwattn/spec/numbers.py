"""Integer arithmetic that every room shares: rounding, saturation and requantization.

All functions work on Python ints and on NumPy int64 arrays alike. Rule of the whole project: a right shift
that drops bits rounds half up (towards plus infinity), and everything that narrows saturates.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
IntLike = TypeVar("IntLike", int, Int64)

MULTIPLIER_BITS = 16
"""Bits of a requantization multiplier: ``2**15 <= multiplier < 2**16``."""

SHIFT_MAX = 47
"""Largest requantization shift; the smallest is 1."""


def round_shift(value: Int64, shift: int | Int64) -> Int64:
    """Shift right by `shift` bits, rounding half up.

    Parameters
    ----------
    value : ndarray of int64
    shift : int or ndarray of int64
        0 or more; 0 leaves the value alone.

    Returns
    -------
    ndarray of int64
        ``floor((value + 2**(shift - 1)) / 2**shift)``.
    """
    value = np.asarray(value, np.int64)
    shift = np.asarray(shift, np.int64)
    half = (np.int64(1) << shift) >> 1
    return np.asarray((value + half) >> shift, np.int64)


def saturate(value: Int64, bits: int) -> Int64:
    """Clip to a signed integer of `bits` bits."""
    limit = 1 << (bits - 1)
    clipped: Int64 = np.minimum(np.maximum(np.asarray(value, np.int64), -limit), limit - 1)
    return clipped


def requantize(accumulator: Int64, multiplier: int | Int64, shift: int | Int64, bits: int) -> Int64:
    """Scale an accumulator by ``multiplier / 2**shift``, round half up and saturate.

    Parameters
    ----------
    accumulator : ndarray of int64
        At most 33 signed bits, so that the product with 16 bits is kept whole.
    multiplier, shift : int or ndarray of int64
        ``0 <= multiplier < 2**16``, ``1 <= shift <= 47``.
    bits : int
        Width of the signed result.

    Returns
    -------
    ndarray of int64
        ``saturate((accumulator * multiplier + 2**(shift - 1)) >> shift, bits)``.
    """
    product = np.asarray(accumulator, np.int64) * np.asarray(multiplier, np.int64)
    return saturate(round_shift(product, shift), bits)


@lru_cache(maxsize=1 << 16)
def quantize_multiplier(scale: float) -> tuple[int, int]:
    """Write a positive real factor as ``multiplier / 2**shift``.

    Parameters
    ----------
    scale : float
        ``2**-32 <= scale < 2**15`` is represented to 16 bits; 0 gives ``(0, 1)``. A smaller factor gives
        the smallest one that can be written, rounded.

    Returns
    -------
    multiplier, shift : int
        ``2**15 <= multiplier < 2**16`` (smaller only where the shift would pass 47), ``1 <= shift <= 47``.

    Raises
    ------
    ValueError
        If the factor is negative, not finite, or 2**15 or more.
    """
    if not math.isfinite(scale) or scale < 0 or scale >= 2**15:
        raise ValueError(f"factor {scale} lies outside 0 to 2**15")
    if scale == 0:
        return 0, 1
    mantissa, exponent = math.frexp(scale)
    multiplier, shift = math.floor(mantissa * 2**MULTIPLIER_BITS + 0.5), MULTIPLIER_BITS - exponent
    if multiplier == 2**MULTIPLIER_BITS:
        multiplier, shift = multiplier // 2, shift - 1
    if shift > SHIFT_MAX:
        return math.floor(scale * 2**SHIFT_MAX + 0.5), SHIFT_MAX
    if shift < 1:
        raise ValueError(f"factor {scale} lies outside 0 to 2**15")
    return multiplier, shift


def bit_length(value: Int64) -> Int64:
    """Number of bits of a non-negative integer below 2**62, elementwise (0 for 0)."""
    value = np.asarray(value, np.int64)
    # the exponent of the nearest float64, which is one too large where rounding reached the next power of two
    length = np.frexp(value)[1].astype(np.int64)
    exact: Int64 = length - ((value >> np.maximum(length - 1, 0)) < (value > 0))
    return exact


def signed_digits(value: Int64) -> tuple[Int64, Int64]:
    """Split 16-bit gate operands into two signed int8 digits.

    Parameters
    ----------
    value : ndarray of int64
        Clipped to ``GATE_LIMIT`` on both sides first.

    Returns
    -------
    low, high : ndarray of int64
        ``value == high * 256 + low`` with ``-128 <= low <= 127`` and ``-127 <= high <= 127``.
    """
    value = np.clip(np.asarray(value, np.int64), -GATE_LIMIT, GATE_LIMIT)
    low = ((value + 128) & 255) - 128
    return low, (value - low) >> 8


GATE_LIMIT = 32639
"""Largest magnitude of a 16-bit gate operand (127 * 256 + 127)."""
