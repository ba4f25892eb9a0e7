"""Scales, weights, LayerNorm integers, probability bits: each part of the quantizer alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.quant.attention import KEYS_MAX, probability_bits
from hwattn.quant.calibration import choose_scale, fake, image_scale
from hwattn.quant.norm import norm_epsilon, norm_parameters
from hwattn.quant.simulate import probabilities
from hwattn.quant.weights import BIAS_LIMIT, quantize_matrix, round_weights
from hwattn.spec.graph import Attention
from hwattn.spec.numbers import GATE_LIMIT, Int64, bit_length, round_shift, saturate
from hwattn.spec.tables import RSQRT_FIRST, reciprocal_square_root_table


def machine_norm(x: Int64, epsilon: int) -> Int64:
    """Normalized values with 11 fraction bits as the machine computes them; x (rows, dim)."""
    dim, total = x.shape[1], x.sum(axis=1)
    v = dim * np.square(x).sum(axis=1) - total * total + epsilon
    shift = (54 - bit_length(v)) & ~1
    mm = (v << shift) >> 36
    r0 = reciprocal_square_root_table()[(mm >> 10) - RSQRT_FIRST]
    q = np.minimum((r0 * r0) >> 14, 2**18 - 1) * mm
    t = (3 * 2**34 - q + 2**17) >> 18
    r = np.minimum(65535, (r0 * t + 2**16) >> 17)
    return saturate(round_shift((dim * x - total[:, None]) * r[:, None], (31 - shift // 2)[:, None]), 18)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    dim=st.sampled_from([1, 3, 48, 192, 1000]),
    spread=st.floats(-2.0, 2.0),
    level=st.integers(20, 12000),
)
def test_norm_parameters_make_the_layer_norm(seed: int, dim: int, spread: float, level: int) -> None:
    rng = np.random.default_rng(seed)
    scale, residual = 0.04, 1e-3
    gamma = (np.exp(rng.normal(0, abs(spread), dim)) * rng.choice([-1, 1], dim)).astype(np.float32)
    beta = rng.normal(0, 1, dim).astype(np.float32)
    x = np.clip(np.rint(rng.normal(0, level, (20, dim)) + level), -32768, 32767).astype(np.int64)
    gamma_int, beta_int, shift = norm_parameters(gamma, beta, scale)
    epsilon = norm_epsilon(1e-6, dim, residual)
    real = x * residual
    deviation = np.sqrt(real.var(axis=1, keepdims=True) + epsilon * (residual / dim) ** 2)
    exact = ((real - real.mean(axis=1, keepdims=True)) / deviation * gamma + beta) / scale
    result = machine_norm(x, epsilon) * gamma_int + beta_int
    assert 9 <= shift <= 31
    assert np.abs(result).max() < 2**35
    narrow = saturate(round_shift(result, shift), 8)
    wide = np.clip(round_shift(result, shift - 8), -GATE_LIMIT, GATE_LIMIT)
    reach = np.abs(gamma).max() / scale
    # gamma is rounded to 15 bits of its largest, the normalized value to 11 fraction bits and 2e-4 of itself
    slack = 2e-3 * reach + 4e-4 * np.abs(exact) + 0.01
    assert np.all(np.abs(narrow - np.clip(exact, -128, 127)) <= 0.5 + slack)
    assert np.all(np.abs(wide / 256 - np.clip(exact, -127.5, 127.5)) <= slack)


def test_norm_parameters_use_all_bits_and_saturate() -> None:
    gamma, beta, shift = norm_parameters(np.float32([1.0, -0.5]), np.float32([0.0, 0.0]), 1 / 32)
    assert shift == 20 and gamma.tolist() == [16384, -8192] and beta.tolist() == [0, 0]
    assert norm_parameters(np.zeros(3, np.float32), np.zeros(3, np.float32), 0.1)[2] == 31
    gamma, beta, shift = norm_parameters(np.float32([1e9]), np.float32([-1e9]), 1e-3)
    assert (shift, gamma.tolist(), beta.tolist()) == (9, [32767], [-(2**31) + 1])


def test_norm_epsilon_bounds() -> None:
    assert norm_epsilon(1e-5, 48, 1e-4) == round(1e-5 * 48 * 48 / 1e-8)
    assert norm_epsilon(1e-12, 48, 1.0) == 1
    assert norm_epsilon(1.0, 4096, 1e-9) == 2**52 - 1


def test_choose_scale_clips_an_outlier_unless_forbidden() -> None:
    values = np.random.default_rng(0).normal(0, 1, (20000, 1)).astype(np.float32)
    values[0] = 12.0
    clipped, whole = choose_scale(values), choose_scale(values, smallest=1.0)
    assert whole == pytest.approx(12 / 127)
    assert clipped < 0.95 * whole
    assert np.square(fake(values, clipped) - values).mean() < np.square(fake(values, whole) - values).mean()
    assert choose_scale(np.zeros((5, 2), np.float32)) == pytest.approx(1 / 127)
    assert choose_scale(np.zeros((0, 4), np.float32)) > 0


def test_choose_scale_serves_the_features_that_count() -> None:
    values = np.random.default_rng(1).normal(0, [1, 10], (5000, 2)).astype(np.float32)
    alike = choose_scale(values)
    assert choose_scale(values, importance=np.float32([1, 0])) < 0.5 * alike
    assert choose_scale(values, importance=np.float32([0, 1])) == pytest.approx(alike, rel=0.1)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), size=st.floats(1e-6, 1e6))
def test_choose_scale_follows_the_unit(seed: int, size: float) -> None:
    values = np.random.default_rng(seed).normal(0, 1, (100, 5)).astype(np.float32)
    assert choose_scale((values * np.float32(size)).astype(np.float32)) == pytest.approx(
        choose_scale(values) * size, rel=0.05
    )


def test_image_scale_is_exact_for_few_levels() -> None:
    images = (np.arange(17) / 8 - 1).astype(np.float32).reshape(1, 1, 1, 17)
    scale = image_scale(images)
    np.testing.assert_allclose(np.rint(images / scale) * scale, images, rtol=1e-6)
    assert 64 <= round(1 / scale) <= 127
    assert image_scale(np.zeros((1, 1, 2, 2), np.float32)) > 0


def make_linear(seed: int, rows: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(0, 1, (inputs, inputs))
    x = (rng.normal(0, 1, (rows, inputs)) @ mixing + rng.normal(0, 1, inputs)).astype(np.float32)
    return (
        rng.normal(0, 0.3, (outputs, inputs)).astype(np.float32),
        rng.normal(0, 1, outputs).astype(np.float32),
        x,
    )


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), inputs=st.integers(16, 40), outputs=st.integers(8, 12))
def test_rounded_weights_lose_less_than_plain_rounding(seed: int, inputs: int, outputs: int) -> None:
    """In matrices of 128 weights and more; on a handful of weights a greedy method may lose."""
    weight, _, x = make_linear(seed, 300, inputs, outputs)
    integers, scale = round_weights(weight, x, np.zeros(outputs))
    assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() <= 127
    plain = np.abs(weight).max(axis=1) / 127
    centred = x - x.mean(axis=0)

    def error(rounded: np.ndarray) -> float:
        return float(np.square(centred @ (rounded - weight).T).sum())

    assert error(integers * scale[:, None]) < error(np.rint(weight / plain[:, None]) * plain[:, None])


def test_rounded_weights_of_dead_inputs_rows_and_samples() -> None:
    weight, _, x = make_linear(1, 50, 6, 4)
    weight[2] = 0.0
    x[:, 3] = 0.0
    for sample in (x, x[:1], np.zeros_like(x)):
        integers, scale = round_weights(weight, sample, np.zeros(4))
        assert np.all(scale > 0) and np.all(np.isfinite(scale))
        assert np.all(integers[2] == 0)
        assert np.abs(integers * scale[:, None] - weight).max() < 0.2
    assert np.all(round_weights(np.zeros_like(weight), x, np.zeros(4))[0] == 0)


def test_bias_takes_up_the_mean_error_and_stays_below_its_limit() -> None:
    weight, bias, x = make_linear(2, 2000, 24, 8)
    input_scale = choose_scale(x)
    matrix = quantize_matrix(weight, bias, input_scale, x)
    seen = np.rint(np.clip(x / input_scale, -127, 127))
    made = (seen @ matrix.weight.astype(np.float64).T + matrix.bias) * matrix.scale * input_scale
    exact = x.astype(np.float64) @ weight.T + bias
    assert np.abs((made - exact).mean(axis=0)).max() < 2e-3 * exact.std()
    assert 10 * np.log10(np.square(exact).sum() / np.square(made - exact).sum()) > 30
    huge = quantize_matrix(weight * np.float32(1e-9), bias * np.float32(1e6), input_scale, x)
    assert np.abs(huge.bias.astype(np.int64)).max() <= BIAS_LIMIT
    np.testing.assert_allclose(huge.bias * huge.scale * input_scale, bias * 1e6, rtol=1e-6)


def test_probabilities_are_those_of_the_table() -> None:
    y = np.array([[0, -256, -1, 256], [5, 5, 5, 5], [-32768, 32767, 0, 0]], np.int64)
    p = probabilities(y)
    assert p[0].tolist() == [32768, 16384, 32680, 65535]
    assert len(set(p[1].tolist())) == 1
    assert p[2].tolist() == [0, 65359, 0, 0]
    real = p / p.sum(axis=-1, keepdims=True)
    exact = np.exp2(y / 256) / np.exp2(y / 256).sum(axis=-1, keepdims=True)
    assert np.abs(real - exact).max() < 2e-5


def test_probability_bits() -> None:
    rng = np.random.default_rng(0)
    node = Attention("a", ("q", "k", "v"), 2, 0.25)

    def operands(keys: int) -> list[np.ndarray]:
        return [rng.normal(0, 1, (2, keys, 16)).astype(np.float32) for _ in range(3)]

    assert probability_bits(node, *operands(20)) == 8
    assert probability_bits(node, *operands(KEYS_MAX + 1)) == 16
    # one key draws the eye, all the others together carry the result, each below one part in 512
    keys = 400
    query, key, value = operands(keys)
    query[:], key[:], value[:, 0] = 1.0, 0.0, 0.0
    key[:, 0] = 3.2
    value[:, 1:] = 1.0
    assert probability_bits(node, query, key, value) == 16
