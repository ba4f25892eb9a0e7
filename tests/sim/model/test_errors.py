"""Errors of the non-linear units against float, measured over their input ranges, beside the figures to beat.

`pytest -s tests/sim/model/test_errors.py` prints the table. tests/data/model/errors.json holds what was measured.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hwattn.sim.model.layernorm import normalize, reciprocal_square_root
from hwattn.sim.model.post import activate, reciprocal
from hwattn.sim.model.router import route
from hwattn.sim.model.softmax import bytes8, probabilities, softmax_block
from hwattn.spec.numbers import quantize_multiplier
from hwattn.spec.tables import ACTIVATIONS, activation_table

BASELINE = json.loads((Path(__file__).parents[2] / "data" / "model" / "errors.json").read_text())
TOLERANCE = 0.02

LIMITS = {
    "gelu": 3e-5,  # Edge-MoE: 9.8e-5
    "gelu_tanh": 3e-5,
    "silu": 7e-5,
    "quick_gelu": 7e-5,
    "softplus": 7e-5,
    "hard_swish": 3e-5,
    "relu": 0.0,
    "exponential": 2**-16,  # 65536 is written as 65535
    "softmax p16": 2e-3,
    "softmax p16 row sums": 1e-9,
    "softmax p8": 5e-3,  # I-ViT, I-BERT, ITA: 1e-2 to 1e-1
    "reciprocal, relative": 2**-14,
    "reciprocal square root, relative": 4e-5,
    "layernorm z": 6e-4,
    "gate": 1.5e-3,
}


def activation_error(name):
    """On every input."""
    v = np.arange(-131072, 131072)
    exact = np.array([ACTIVATIONS[name][0](x / 4096) for x in v.tolist()])
    return np.abs(activate(v, activation_table(name)) / 2.0**19 - exact).max()


def exponential_error():
    """On every distance of two 16-bit scores."""
    distance = np.arange(1 << 17)
    return np.abs(probabilities(distance) / 65536 - np.exp2(-distance / 256)).max()


def softmax_errors(p_bits):
    """Largest error, and error of a row's sum, over score ranges and key counts up to 197."""
    random = np.random.default_rng(1)
    worst, worst_sum = 0.0, 0.0
    for keys in (1, 2, 17, 65, 129, 197):
        for spread in (0, 0.1, 1, 4, 12, 18):
            # a score is acc * scale, within the +-88 that y can hold; scale is as coarse as int8 operands make it
            scale = max(spread, 1) / 2**18
            acc = np.round(random.normal(size=(64, keys)) * spread / scale).astype(np.int64)
            multiplier, shift = quantize_multiplier(scale * np.log2(np.e) * 256)
            state = np.zeros(64, np.int64)
            block = softmax_block(acc, multiplier, shift, state, state, True, np.ones((64, keys), bool))
            numerator = block.p16 if p_bits == 16 else bytes8(block.p16).astype(int) * 256
            found = numerator / block.total[:, None]
            exact = np.exp((acc - acc.max(axis=1, keepdims=True)) * scale)
            exact /= exact.sum(axis=1, keepdims=True)
            worst = max(worst, np.abs(found - exact).max())
            worst_sum = max(worst_sum, np.abs(found.sum(axis=1) - 1).max())
    return worst, worst_sum


def reciprocal_error():
    total = np.unique(np.exp2(np.linspace(0, 32, 200_001)).astype(np.int64))[:-1]
    multiplier, shift = reciprocal(total, 1 << 15, 15)
    return np.abs(multiplier / 2.0**shift * total - 1).max()


def reciprocal_square_root_error():
    powers = np.int64(1) << np.arange(54)
    spread = np.exp2(np.linspace(0, 54, 500_001)).astype(np.int64)
    variance = np.unique(np.concatenate([np.arange(1, 3000), powers, powers - 1, powers + 1, spread]))
    variance = variance[(variance >= 1) & (variance < 2**54)]
    significand, shift = reciprocal_square_root(variance)
    return np.abs(significand * 2.0**-shift * np.sqrt(variance.astype(float)) / 2**11 - 1).max()


def layernorm_error():
    """Of z = (x - mean) / sqrt(variance + eps), over widths and amplitudes of the residual stream."""
    random = np.random.default_rng(3)
    worst = 0.0
    for dim in (32, 48, 64, 192, 384, 768):
        for spread in (1, 3, 30, 1000, 8000, 30000):
            x = np.round(random.normal(random.uniform(-spread, spread), spread, (256, dim)))
            x = np.clip(x, -32768, 32767)
            epsilon = max(1, dim * dim // 1000)
            centred = x - x.mean(axis=1, keepdims=True)
            exact = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon / dim**2)
            worst = max(worst, np.abs(normalize(x.astype(np.int64), epsilon) / 2**11 - exact).max())
    return worst


def gate_error():
    """Of the gate weights of the best two of 16 experts, softmax over all; the choice itself must be float's."""
    logits = np.random.default_rng(7).normal(0, 3, (2000, 16))
    score = np.round(logits * 2**24).astype(np.int64)
    # y = logit * log2(e) * 256 = score / 2**16 * 369.33 = score / 2**8 * 47274 / 2**23
    chosen, gates = route(score, 8, 47274, 23, 2, False)
    exact = np.exp(logits - logits.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    assert (chosen == np.argsort(-logits, axis=1)[:, :2]).all()
    return np.abs(gates / 32768 - np.take_along_axis(exact, chosen, axis=1)).max()


MEASUREMENTS = {
    **{name: lambda name=name: activation_error(name) for name in ACTIVATIONS},
    "exponential": exponential_error,
    "softmax p16": lambda: softmax_errors(16)[0],
    "softmax p16 row sums": lambda: softmax_errors(16)[1],
    "softmax p8": lambda: softmax_errors(8)[0],
    "reciprocal, relative": reciprocal_error,
    "reciprocal square root, relative": reciprocal_square_root_error,
    "layernorm z": layernorm_error,
    "gate": gate_error,
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_error(name):
    error = float(MEASUREMENTS[name]())
    print(f"{name:34} {error:9.2e}   at most {LIMITS[name]:.2e}")
    assert error <= LIMITS[name]
    assert math.isclose(error, BASELINE[name], rel_tol=TOLERANCE, abs_tol=1e-12)


def test_the_baseline_has_nothing_else():
    assert set(BASELINE) == set(MEASUREMENTS) == set(LIMITS)
