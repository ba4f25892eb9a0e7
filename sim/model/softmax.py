"""The softmax unit: a block of scores to base-2 probabilities, with an integer running maximum and a running sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.numbers import Int64, requantize, round_shift
from hwattn.spec.tables import SCORE_FRACTION_BITS, exponential_table
from hwattn.spec.widths import GROWTH_MAX, PROBABILITY_MAX, SCORE_BITS, SENTINEL, SUM_MAX, VANISHED


@dataclass(frozen=True)
class SoftmaxBlock:
    """What a block of keys leaves behind.

    Parameters
    ----------
    p16 : ndarray of int64, shape (..., rows, keys)
        ``2**16 * 2**(y - maximum)``, 0..65535; 0 for a masked key.
    maximum : ndarray of int64, shape (..., rows)
        Running maximum of ceil(y), -256 before any visible key.
    total : ndarray of int64, shape (..., rows)
        Running sum of `p16`, 32 bits unsigned.
    growth : ndarray of int64, shape (..., rows)
        By how many bits older accumulators must be shifted right, 0..31.
    """

    p16: Int64
    maximum: Int64
    total: Int64
    growth: Int64


def visible_keys(
    rows: int, keys: int, mask_low: int, mask_high: int, slope_low: int = 0, slope_high: int = 0
) -> NDArray[np.bool_]:
    """Return which keys of a block each row sees: ``low + slope_low * r <= j < high + slope_high * r``.

    Returns
    -------
    ndarray of bool, shape (rows, keys)
    """
    row = np.arange(rows)[:, None]
    key = np.arange(keys)[None, :]
    visible: NDArray[np.bool_] = (mask_low + slope_low * row <= key) & (key < mask_high + slope_high * row)
    return visible


def probabilities(distance: Int64) -> Int64:
    """Return p16 = min(65535, T[f] >> i) for ``distance = 256 * i + f``, 0 or more; 0 where i is 18 or more."""
    whole = distance >> SCORE_FRACTION_BITS
    fraction = distance & ((1 << SCORE_FRACTION_BITS) - 1)
    shifted = round_shift(exponential_table()[fraction], np.minimum(whole, VANISHED))
    return np.where(whole >= VANISHED, 0, np.minimum(shifted, PROBABILITY_MAX))


def softmax_block(
    acc: Int64,
    multiplier: int,
    shift: int,
    maximum: Int64,
    total: Int64,
    first: bool,
    visible: NDArray[np.bool_],
) -> SoftmaxBlock:
    """Turn a block of scores into probabilities (online softmax in base 2, deferred division).

    Parameters
    ----------
    acc : ndarray of int64, shape (..., rows, keys)
        Accumulators of Q K^T.
    multiplier, shift : int
        Requantization to y = s * scale * log2(e), 16 bits of which 8 are fraction.
    maximum, total : ndarray of int64, shape (..., rows)
        State before the block; ignored with `first`.
    first : bool
        The block starts a row afresh.
    visible : ndarray of bool, broadcastable to `acc`
        Unmasked keys.

    Returns
    -------
    SoftmaxBlock
    """
    score = requantize(acc, multiplier, shift, SCORE_BITS)
    if first:
        maximum, total = np.full(score.shape[:-1], SENTINEL, np.int64), np.zeros(score.shape[:-1], np.int64)
    ceiling = -(-score >> SCORE_FRACTION_BITS)
    raised = np.maximum(maximum, np.where(visible, ceiling, SENTINEL).max(axis=-1, initial=SENTINEL))
    growth = np.minimum(raised - maximum, GROWTH_MAX)
    distance = np.maximum((raised[..., None] << SCORE_FRACTION_BITS) - score, 0)
    p16 = np.where(visible, probabilities(distance), 0)
    total = np.minimum(round_shift(total, growth) + p16.sum(axis=-1), SUM_MAX)
    return SoftmaxBlock(p16, raised, total, np.zeros_like(growth) if first else growth)


def bytes8(p16: Int64) -> NDArray[np.uint8]:
    """Round probabilities to 8 bits: ``min(255, (p16 + 128) >> 8)``."""
    rounded: NDArray[np.uint8] = np.minimum((p16 + 128) >> 8, 255).astype(np.uint8)
    return rounded


def high_low(p16: Int64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split probabilities into high and low bytes."""
    return (p16 >> 8).astype(np.uint8), (p16 & 255).astype(np.uint8)
