"""The matrix unit's model: exact at the extremes of every operand type and length."""

from __future__ import annotations

import numpy as np
import pytest

from hwattn.sim.model.matrix import exact_type, low_pass, matrix_product, product_bound, rescale


@pytest.mark.parametrize("resident_type", [np.int8, np.uint8])
@pytest.mark.parametrize("length", [1, 7, 511, 512, 513, 514, 515, 1024, 1025, 4096])
def test_products_are_exact_at_the_extremes(resident_type, length):
    random = np.random.default_rng(length)
    limits = np.iinfo(resident_type)
    resident = random.integers(limits.min, limits.max + 1, (5, length)).astype(resident_type)
    streamed = random.integers(-128, 128, (6, length)).astype(np.int8)
    resident[0], resident[1], streamed[0], streamed[1] = limits.max, limits.min, -128, 127
    resident[2, -1] = limits.max - 1
    exact = resident.astype(np.int64) @ streamed.astype(np.int64).T
    assert (matrix_product(resident, streamed) == exact).all()
    assert (matrix_product(resident[None], streamed[None])[0] == exact).all()
    assert (matrix_product(np.stack([resident, resident]), streamed)[1] == exact).all()


def test_types_are_as_narrow_as_they_can_be():
    signed, unsigned = np.zeros(1, np.int8), np.zeros(1, np.uint8)
    assert exact_type(product_bound(1024, signed, signed)) is np.float32
    assert exact_type(product_bound(1025, signed, signed)) is np.float64
    assert exact_type(product_bound(514, unsigned, signed)) is np.float32
    assert exact_type(product_bound(515, unsigned, signed)) is np.float64
    with pytest.raises(ValueError, match="not exact in float64"):
        exact_type(1 << 54)


def test_low_pass_and_rescale_round_half_up():
    assert low_pass(np.array([127, 128, -128, -129, 384])).tolist() == [0, 1, 0, -1, 2]
    old = np.array([[5, -5], [6, -6], [7, 9]])
    assert rescale(old, np.array([0, 1, 31])).tolist() == [[5, -5], [3, -3], [0, 0]]
