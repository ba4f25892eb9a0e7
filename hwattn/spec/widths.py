"""Constants of the arithmetic that the NumPy model and the C++ library share: widths, limits and fixed shifts (docs/numbers.md)."""

from __future__ import annotations

SCORE_BITS = 16
"""Width of a base-2 score."""

SENTINEL = -256
"""Running maximum before the first key, below every possible one (-128 to 128)."""

GROWTH_MAX = 31
"""Largest shift of older accumulators when the running maximum has grown."""

PROBABILITY_MAX = (1 << 16) - 1
SUM_MAX = (1 << 32) - 1

VANISHED = 18
"""Integer part of (maximum - score) from which a probability is zero."""

LOW_PASS_SHIFT = 8
"""Right shift of the pass over the low bytes of 16-bit probabilities."""

RESULT_BITS = 16
"""Width of a requantized value without activation."""

GATE_SHIFT = 15
"""Fraction bits of a gate weight."""

GATE_ONE = 1 << GATE_SHIFT
"""A gate weight of one, Q0.15."""

GATE_SCORE_BITS = 48
"""Width of a gate score; more wraps."""

RECIPROCAL_MAX = (1 << 16) - 1
"""Largest multiplier that divides a row by its softmax sum."""

VARIANCE_BITS = 54
"""Width of D * SS - S**2 + epsilon."""

NORMAL_BITS = 18
"""Width of a normalized value."""
