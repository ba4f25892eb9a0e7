"""The LayerNorm unit's model: against integers of unlimited size."""

from __future__ import annotations

import numpy as np
import pytest

from hwattn.sim.model.layernorm import layer_norm
from hwattn.spec.tables import reciprocal_square_root_table

TABLE = [int(entry) for entry in reciprocal_square_root_table()]


def half_up(value, shift):
    return (value + (1 << shift >> 1)) >> shift


def clip(value, low, high):
    return max(low, min(high, value))


def reference(x, gamma, beta, epsilon, shift, zero_mean):
    dim, total, squares = len(x), 0 if zero_mean else sum(x), sum(v * v for v in x)
    variance = dim * squares - total * total + epsilon
    assert 1 <= variance < 2**54
    left = (54 - variance.bit_length()) & ~1
    mm = (variance << left) >> 36
    r0 = TABLE[(mm >> 10) - 64]
    a = min((r0 * r0) >> 14, 2**18 - 1)
    t = (3 * 2**34 - a * mm + 2**17) >> 18
    r = min(65535, (r0 * t + 2**16) >> 17)
    out, wide = [], []
    for value, g, b in zip(x, gamma, beta, strict=True):
        z = clip(half_up((dim * value - total) * r, 31 - left // 2), -(2**17), 2**17 - 1)
        u = z * g + b
        out.append(clip(half_up(u, shift), -128, 127))
        wide.append(clip(half_up(u, shift - 8), -32639, 32639))
    return out, wide


@pytest.mark.parametrize(
    ("dim", "zero_mean"),
    [(dim, False) for dim in (1, 2, 7, 64, 192, 4096)] + [(dim, True) for dim in (1, 7, 192, 4095)],
)
def test_equals_the_reference(dim, zero_mean):
    random = np.random.default_rng(dim)
    rows = [
        random.integers(-32768, 32768, dim),
        random.integers(-3, 4, dim),
        np.full(dim, -32768),
        np.where(np.arange(dim) == dim // 2, 32767, 0),
        np.where(np.arange(dim) % 2, 32767, -32768),
    ]
    gamma, beta = random.integers(-32768, 32768, dim), random.integers(-(2**31), 2**31, dim)
    x = np.stack(rows)
    for epsilon, shift in [(1, 9), (dim * dim + 5, 18), (2**30, 30)]:
        out, wide = layer_norm(x, gamma, beta, epsilon, shift, zero_mean=zero_mean)
        for r in range(len(rows)):
            expected = reference(x[r].tolist(), gamma.tolist(), beta.tolist(), epsilon, shift, zero_mean)
            assert (out[r].tolist(), wide[r].tolist()) == expected
