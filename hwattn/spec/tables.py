"""Tables that several rooms need, computed once: exponential, activation and reciprocal square root."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.numbers import Int64

SCORE_FRACTION_BITS = 8
"""Fraction bits of a base-2 score y = s * scale * log2(e), an int16."""

ACTIVATION_INPUT_BITS = 18
"""Width of the signed activation input."""

ACTIVATION_INPUT_FRACTION = 12
"""Fraction bits of the activation input: it spans -32 to 32."""

ACTIVATION_FRACTION = 19
"""Fraction bits of the activation table and of the activation's output."""

ACTIVATION_INTERVALS = 512
ACTIVATION_VALUE_BITS = 20
ACTIVATION_DIFFERENCE_BITS = 16

RSQRT_FIRST = 64
"""Index of the first entry of the reciprocal square root table; the last one is 255."""


@cache
def exponential_table() -> Int64:
    """T[f] = round(2**16 * 2**(-f / 256)) for f = 0..255; int64 array of shape (256,), T[0] = 65536."""
    fractions = np.arange(256) / 256
    table: Int64 = np.floor(65536 * np.exp2(-fractions) + 0.5).astype(np.int64)
    return table


@cache
def reciprocal_square_root_table() -> Int64:
    """First guess of 2**31 / sqrt(m) for m = (64 + index + 0.5) * 2**24; int64 of shape (192,), 16 bits."""
    centres = (np.arange(RSQRT_FIRST, 256) + 0.5) * 2.0**24
    table: Int64 = np.minimum(np.floor(2.0**31 / np.sqrt(centres) + 0.5), 65535).astype(np.int64)
    return table


@dataclass(frozen=True)
class ActivationTable:
    """delta(|x|) = ReLU(x) - f(x), linear between knots, for f with f(x) - f(-x) = x (Edge-MoE, section IV-C).

    Parameters
    ----------
    value : ndarray of int64, shape (512,)
        delta at the left knot of each interval, 19 fraction bits, 20 signed bits.
    difference : ndarray of int64, shape (512,)
        delta at the right knot minus `value`, 16 signed bits.
    interval_shift : int
        log2 of the interval in input units of 2**-12: 6 (1/64, up to 8) or 7 (1/32, up to 16).
    """

    value: NDArray[np.int64]
    difference: NDArray[np.int64]
    interval_shift: int


def _erf_gelu(x: float) -> float:
    return x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def _tanh_gelu(x: float) -> float:
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


ACTIVATIONS: dict[str, tuple[Callable[[float], float], int]] = {
    "gelu": (_erf_gelu, 8),
    "gelu_tanh": (_tanh_gelu, 8),
    "quick_gelu": (lambda x: x * _sigmoid(1.702 * x), 8),
    "silu": (lambda x: x * _sigmoid(x), 16),
    "softplus": (lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))), 16),
    "hard_swish": (lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0, 8),
    "relu": (lambda x: max(x, 0.0), 8),
}
"""Every activation the machine computes: the function, and the |x| beyond which delta is taken as zero."""


@cache
def activation_table(name: str) -> ActivationTable:
    """Build the table of an activation named in ``ACTIVATIONS``.

    Knots are rounded to 19 fraction bits; the last knot is zero, so that delta is continuous where it ends.
    """
    function, span = ACTIVATIONS[name]
    interval_shift = 6 if span == 8 else 7
    knots = np.arange(ACTIVATION_INTERVALS + 1) * (span / ACTIVATION_INTERVALS)
    exact = np.array([max(x, 0.0) - function(float(x)) for x in knots])
    exact[-1] = 0.0
    grid = np.floor(exact * 2**ACTIVATION_FRACTION + 0.5).astype(np.int64)
    return ActivationTable(grid[:-1], np.diff(grid), interval_shift)
