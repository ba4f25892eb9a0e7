"""The router: top-k experts of each token, and their gate weights."""

from __future__ import annotations

import numpy as np

from hwattn.sim.model.softmax import probabilities
from hwattn.spec.numbers import Int64, requantize, round_shift, saturate
from hwattn.spec.tables import SCORE_FRACTION_BITS
from hwattn.spec.widths import GATE_ONE, GATE_SCORE_BITS, SCORE_BITS


def combine(columns: Int64, bias: Int64) -> Int64:
    """Return 48-bit scores from the accumulator columns of the three digit passes.

    Parameters
    ----------
    columns : ndarray of int64, shape (..., 3 * experts)
    bias : ndarray of int64, shape (experts,)

    Returns
    -------
    ndarray of int64, shape (..., experts)
        ``c0 + (c1 << 8) + (c2 << 16) + bias``, wrapped to 48 bits.
    """
    parts = np.asarray(columns, np.int64).reshape(*columns.shape[:-1], -1, 3)
    score = parts[..., 0] + (parts[..., 1] << 8) + (parts[..., 2] << 16) + bias
    unused = 64 - GATE_SCORE_BITS
    return np.asarray((score << unused) >> unused, np.int64)


def route(
    score: Int64, score_shift: int, multiplier: int, shift: int, k: int, renormalize: bool
) -> tuple[Int64, Int64]:
    """Choose experts in descending score, ties to the lower index, and weigh them by a softmax.

    Parameters
    ----------
    score : ndarray of int64, shape (..., experts)
        48 bits signed.
    score_shift, multiplier, shift : int
        ``y = requantize(saturate(round_shift(score, score_shift), 32), multiplier, shift, 16)``, base 2, 8 fraction bits.
    k : int
        Experts for each token.
    renormalize : bool
        Softmax over the chosen experts only, not over all.

    Returns
    -------
    chosen, gates : ndarray of int64, shape (..., k)
        Experts in rank order, and their weights, Q0.15 (0..32768).
    """
    score = np.asarray(score, np.int64)
    chosen = np.argsort(-score, axis=-1, kind="stable")[..., :k]
    y = requantize(saturate(round_shift(score, score_shift), 32), multiplier, shift, SCORE_BITS)
    ceiling = -(-np.take_along_axis(y, chosen[..., :1], axis=-1) >> SCORE_FRACTION_BITS)
    p16 = probabilities(np.maximum((ceiling << SCORE_FRACTION_BITS) - y, 0))
    kept = np.take_along_axis(p16, chosen, axis=-1)
    total = (kept if renormalize else p16).sum(axis=-1, keepdims=True)
    gates = np.minimum(((kept << 16) // total + 1) >> 1, GATE_ONE)
    return chosen.astype(np.int64), gates
