"""The post-processing unit: requantization, activation by table, second scaling and saturation."""

from __future__ import annotations

import numpy as np

from hwattn.spec.numbers import Int64, bit_length, requantize, round_shift
from hwattn.spec.tables import (
    ACTIVATION_FRACTION,
    ACTIVATION_INPUT_BITS,
    ACTIVATION_INPUT_FRACTION,
    ACTIVATION_INTERVALS,
    ActivationTable,
)
from hwattn.spec.widths import GATE_SHIFT, RECIPROCAL_MAX, RESULT_BITS


def reciprocal(total: Int64, m2: int, s2: int) -> tuple[Int64, Int64]:
    """Return the multiplier and shift that divide a row by its softmax sum and scale it by m2 / 2**s2.

    Parameters
    ----------
    total : ndarray of int64
        Sum of p16, 32 bits unsigned.
    m2, s2 : int
        16 and 6 bits.

    Returns
    -------
    multiplier, shift : ndarray of int64
        ``multiplier / 2**shift`` is about ``m2 / 2**s2 / total``; 0 and 1 where the sum is zero.
    """
    total = np.asarray(total, np.int64)
    width = bit_length(total)
    normal = np.maximum(total, 1) << (32 - np.maximum(width, 1))
    inverse = np.minimum(((1 << 48) // normal + 1) >> 1, RECIPROCAL_MAX)
    product = m2 * inverse
    large = product >= 1 << 31
    multiplier = np.where(
        large,
        np.minimum(round_shift(product, 16), RECIPROCAL_MAX),
        np.minimum(round_shift(product, 15), RECIPROCAL_MAX),
    )
    shift = s2 + width - large
    return np.where(total == 0, 0, multiplier), np.where(total == 0, 1, shift)


def activate(v: Int64, table: ActivationTable) -> Int64:
    """Apply f(x) = ReLU(x) - delta(|x|), with delta interpolated linearly (Edge-MoE, section IV-C).

    Parameters
    ----------
    v : ndarray of int64
        18 bits, 12 of them fraction.
    table : ActivationTable

    Returns
    -------
    ndarray of int64
        19 fraction bits.
    """
    magnitude = np.minimum(np.abs(v), (1 << (ACTIVATION_INPUT_BITS - 1)) - 1)
    index = magnitude >> table.interval_shift
    inside = index < ACTIVATION_INTERVALS
    knot = np.where(inside, index, 0)
    offset = magnitude & ((1 << table.interval_shift) - 1)
    delta = table.value[knot] + round_shift(table.difference[knot] * offset, table.interval_shift)
    positive = np.maximum(v, 0) << (ACTIVATION_FRACTION - ACTIVATION_INPUT_FRACTION)
    return np.asarray(positive - np.where(inside, delta, 0), np.int64)


def stage1(
    acc: Int64, bias: Int64 | int, multiplier: Int64, shift: Int64, table: ActivationTable | None = None
) -> Int64:
    """Requantize ``acc + bias`` to 16 bits, or to 18 bits and through the activation if there is a `table`."""
    bits = RESULT_BITS if table is None else ACTIVATION_INPUT_BITS
    v = requantize(np.asarray(acc, np.int64) + bias, multiplier, shift, bits)
    return v if table is None else activate(v, table)


def stage2_constant(v: Int64, m2: int, s2: int) -> Int64:
    """Scale by ``m2 / 2**s2`` to 16 bits."""
    return requantize(v, m2, s2, RESULT_BITS)


def stage2_gate(v: Int64, gate: Int64) -> Int64:
    """Scale by a gate weight (Q0.15, 0..32768) to 16 bits."""
    return requantize(v, gate, GATE_SHIFT, RESULT_BITS)
