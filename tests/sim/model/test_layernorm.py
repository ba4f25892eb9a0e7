"""The LayerNorm unit's model: against integers of unlimited size, and its error against float."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwattn.sim.model.layernorm import layer_norm, normalize, reciprocal_square_root
from hwattn.spec.tables import reciprocal_square_root_table

TABLE = [int(entry) for entry in reciprocal_square_root_table()]


def half_up(value, shift):
    return (value + (1 << shift >> 1)) >> shift


def clip(value, low, high):
    return max(low, min(high, value))


def reference(x, gamma, beta, epsilon, shift):
    dim, total, squares = len(x), sum(x), sum(v * v for v in x)
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


@pytest.mark.parametrize("dim", [1, 2, 7, 64, 192, 4096])
def test_equals_the_reference(dim):
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
        out, wide = layer_norm(x, gamma, beta, epsilon, shift)
        for r in range(len(rows)):
            expected = reference(x[r].tolist(), gamma.tolist(), beta.tolist(), epsilon, shift)
            assert (out[r].tolist(), wide[r].tolist()) == expected


def test_reciprocal_square_root_over_its_whole_range():
    random = np.random.default_rng(5)
    exact_powers = np.int64(1) << np.arange(54)
    variance = np.unique(
        np.concatenate(
            [
                np.arange(1, 3000),
                exact_powers,
                exact_powers - 1,
                exact_powers + 1,
                np.exp2(random.uniform(0, 54, 200000)).astype(np.int64),
            ]
        )
    )
    variance = variance[(variance >= 1) & (variance < 2**54)]
    significand, shift = reciprocal_square_root(variance)
    error = np.abs(significand * 2.0**-shift * np.sqrt(variance.astype(float)) / 2**11 - 1).max()
    print(f"reciprocal square root: max relative error {error:.2e} (2**{math.log2(error):.1f})")
    assert error < 4e-5


@pytest.mark.parametrize("dim", [32, 64, 192, 384, 768])
def test_error_against_float(dim):
    random = np.random.default_rng(dim)
    worst = worst_relative = 0.0
    for spread in (1, 3, 30, 1000, 8000, 30000):
        x = np.clip(
            np.round(random.normal(random.uniform(-spread, spread), spread, (256, dim))), -32768, 32767
        )
        epsilon = max(1, dim * dim // 1000)
        centred = x - x.mean(axis=1, keepdims=True)
        exact = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon / dim**2)
        found = normalize(x.astype(np.int64), epsilon) / 2**11
        error = np.abs(found - exact)
        worst = max(worst, error.max())
        worst_relative = max(worst_relative, math.sqrt((error**2).sum() / (exact**2).sum()))
    print(f"LayerNorm, {dim} features: max abs error {worst:.2e}, relative rms {worst_relative:.2e}")
    # half a unit of 11 fraction bits, and the significand's 2**-15 of values up to about 6
    assert worst <= 6e-4
    assert worst_relative <= 2e-4
