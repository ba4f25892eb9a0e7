"""The softmax unit's model: against integers of unlimited size."""

from __future__ import annotations

import numpy as np
import pytest

from hwattn.sim.model.softmax import bytes8, high_low, probabilities, softmax_block, visible_keys
from hwattn.spec.tables import exponential_table

TABLE = [int(entry) for entry in exponential_table()]


def half_up(value, shift):
    return (value + (1 << shift >> 1)) >> shift


def reference(scores, multiplier, shift, maximum, total, first, visible):
    """One row, in Python integers, step by step as the unit's description says."""
    ys = [max(-32768, min(32767, half_up(int(s) * multiplier, shift))) for s in scores]
    if first:
        maximum, total = -256, 0
    raised = max([maximum, *((y + 255) // 256 for y, seen in zip(ys, visible, strict=True) if seen)])
    growth = min(raised - maximum, 31)
    total = half_up(total, growth)
    p16 = []
    for y, seen in zip(ys, visible, strict=True):
        i, f = divmod(256 * raised - y, 256)
        p16.append(min(65535, half_up(TABLE[f], i)) if seen and i < 18 else 0)
    return p16, raised, min(2**32 - 1, total + sum(p16)), 0 if first else growth


@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (3, 5), (4, 17), (7, 64)])
def test_equals_the_reference_over_several_blocks(rows, keys):
    random = np.random.default_rng(rows * 100 + keys)
    maximum, total = np.zeros((2, rows), np.int64), np.zeros((2, rows), np.int64)
    for step in range(8):
        acc = random.integers(-(2 ** random.integers(4, 31)), 2**25, (2, rows, keys))
        multiplier, shift = int(random.integers(2**15, 2**16)), int(random.integers(8, 32))
        low, high = int(random.integers(-3, keys + 1)), int(random.integers(-2, keys + 3))
        visible = visible_keys(rows, keys, low, high, int(random.integers(2)), int(random.integers(2)))
        first = step % 4 == 0
        block = softmax_block(acc, multiplier, shift, maximum, total, first, visible)
        for b in range(2):
            for r in range(rows):
                p16, raised, summed, growth = reference(
                    acc[b, r], multiplier, shift, int(maximum[b, r]), int(total[b, r]), first, visible[r]
                )
                assert block.p16[b, r].tolist() == p16
                found = (block.maximum[b, r], block.total[b, r], block.growth[b, r])
                assert found == (raised, summed, growth)
        maximum, total = block.maximum, block.total


def test_a_row_without_visible_keys_keeps_its_state_and_sum_zero():
    acc = np.full((1, 4), 1000)
    block = softmax_block(acc, 1 << 15, 15, np.array([0]), np.array([9]), True, np.zeros((1, 4), bool))
    assert (block.maximum[0], block.total[0], block.growth[0]) == (-256, 0, 0)
    assert not block.p16.any()
    block = softmax_block(acc, 1 << 15, 15, np.array([7]), np.array([9]), False, np.zeros((1, 4), bool))
    assert (block.maximum[0], block.total[0], block.growth[0]) == (7, 9, 0)


def test_the_sum_saturates():
    zeros = np.zeros((1, 3), np.int64)
    block = softmax_block(
        zeros, 1 << 15, 15, np.array([0]), np.array([2**32 - 5]), False, np.ones((1, 3), bool)
    )
    assert block.total[0] == 2**32 - 1


def test_mask_fields():
    for r, row in enumerate(visible_keys(5, 9, -2, 4, 1, 0)):
        assert row.tolist() == [-2 + r <= j < 4 for j in range(9)]
    for r, row in enumerate(visible_keys(5, 9, 0, 3, 0, 1)):
        assert row.tolist() == [j < 3 + r for j in range(9)]


def test_bytes():
    p16 = np.arange(65536)
    assert bytes8(p16).tolist() == [min(255, (p + 128) // 256) for p in range(65536)]
    high, low = high_low(p16)
    assert (high.astype(int) * 256 + low == p16).all()
    assert probabilities(np.array([0, 256 * 17, 256 * 18, 10**6])).tolist() == [65535, 1, 0, 0]
