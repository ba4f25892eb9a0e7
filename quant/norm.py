"""Integer parameters of LayerNorm."""

from __future__ import annotations

import math

import numpy as np

from hwattn.spec.graph import Float
from hwattn.spec.quantized import NORMAL_FRACTION, Int16, Int32

SHIFT_MIN = 9
"""Smallest shift of the result: the wide copy is shifted by 8 bits less."""

SHIFT_MAX = 31
_GAMMA_MAX = (1 << 15) - 1
_BETA_MAX = (1 << 31) - 1


def norm_parameters(gamma: Float, beta: Float, scale: float) -> tuple[Int16, Int32, int]:
    """Integers with ``(z * gamma + beta) >> shift`` = LayerNorm / scale, where z = normalized value * 2**11.

    Parameters
    ----------
    gamma, beta : ndarray of float32, shape (dim,)
    scale : float
        Scale of the int8 result.

    Returns
    -------
    gamma : ndarray of int16, shape (dim,)
    beta : ndarray of int32, shape (dim,)
    shift : int
        The largest that gamma and beta allow, 9 to 31. Where even 9 is too large, gamma and beta saturate
        (factors of 2**17 times the result's scale).
    """
    factor = np.abs(gamma.astype(np.float64)).max(initial=0.0) / scale / (1 << NORMAL_FRACTION)
    offset = np.abs(beta.astype(np.float64)).max(initial=0.0) / scale
    shift = SHIFT_MAX
    for size, limit in ((factor, _GAMMA_MAX), (offset, _BETA_MAX)):
        if size > 0:
            shift = min(shift, math.floor(math.log2(limit / size)))
    shift = max(shift, SHIFT_MIN)
    scaled = np.rint(gamma.astype(np.float64) / scale * 2.0 ** (shift - NORMAL_FRACTION))
    moved = np.rint(beta.astype(np.float64) / scale * 2.0**shift)
    return (
        np.clip(scaled, -_GAMMA_MAX, _GAMMA_MAX).astype(np.int16),
        np.clip(moved, -_BETA_MAX, _BETA_MAX).astype(np.int32),
        shift,
    )


def norm_epsilon(epsilon: float, dim: int, scale: float) -> int:
    """The integer added to D * SS - S^2 for inputs of the given scale: at least 1, at most 52 bits."""
    return min(max(1, round(epsilon * dim * dim / (scale * scale))), (1 << 52) - 1)
