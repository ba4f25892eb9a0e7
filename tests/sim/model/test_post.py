"""The post-processing unit's model: against integers of unlimited size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwattn.sim.model.post import activate, reciprocal, stage1, stage2_constant, stage2_gate
from hwattn.spec.tables import ACTIVATIONS, activation_table


def half_up(value, shift):
    return (value + (1 << shift >> 1)) >> shift


def clip(value, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def reference_reciprocal(total, m2, s2):
    if total == 0:
        return 0, 1
    e = total.bit_length()
    r = min(65535, (2**48 // (total << (32 - e)) + 1) >> 1)
    c = m2 * r
    return (min(65535, half_up(c, 16)), s2 + e - 1) if c >= 2**31 else (min(65535, half_up(c, 15)), s2 + e)


def test_reciprocal_equals_the_reference_and_divides():
    random = np.random.default_rng(2)
    totals = [0, 1, 2, 3, 32857, 65535, 65536, 65537, 2**31, 2**31 + 1, 2**32 - 1]
    totals += [int(2**x) for x in random.uniform(0, 32, 3000)]
    for m2, s2 in [(0, 1), (1, 3), (1 << 15, 7), (40000, 0), (65535, 8), (51234, 12)]:
        multiplier, shift = reciprocal(np.array(totals), m2, s2)
        expected = [reference_reciprocal(total, m2, s2) for total in totals]
        assert list(zip(multiplier.tolist(), shift.tolist(), strict=True)) == expected
        if m2 >= 1 << 15:
            good = np.array(totals[1:], float)
            ratio = multiplier[1:] / 2.0 ** shift[1:] * good * 2.0**s2 / m2
            assert np.abs(ratio - 1).max() < 2**-14


def reference_activate(v, table):
    a = min(abs(v), 131071)
    index = a >> table.interval_shift
    delta = 0
    if index <= 511:
        offset = a & ((1 << table.interval_shift) - 1)
        delta = int(table.value[index]) + half_up(int(table.difference[index]) * offset, table.interval_shift)
    return (max(v, 0) << 7) - delta


@pytest.mark.parametrize("name", ["gelu", "silu", "relu"])
def test_activation_equals_the_reference(name):
    table = activation_table(name)
    random = np.random.default_rng(3)
    v = np.concatenate([np.arange(-300, 300), random.integers(-131072, 131072, 4000), [-131072, 131071]])
    assert activate(v, table).tolist() == [reference_activate(int(x), table) for x in v]


def test_activation_obeys_its_symmetry():
    v = np.arange(0, 131072)
    for name in ACTIVATIONS:
        table = activation_table(name)
        assert (activate(v, table) - activate(-v, table) == v << 7).all(), name


def test_stages_equal_the_reference():
    random = np.random.default_rng(4)
    acc = random.integers(-(2**31), 2**31, 500)
    bias = random.integers(-(2**30), 2**30, 500)
    multiplier, shift = random.integers(0, 65536, 500), random.integers(1, 48, 500)
    table = activation_table("gelu")
    plain, active = stage1(acc, bias, multiplier, shift), stage1(acc, bias, multiplier, shift, table)
    for i in range(500):
        v = half_up(int(acc[i] + bias[i]) * int(multiplier[i]), int(shift[i]))
        assert plain[i] == clip(v, 16)
        assert active[i] == reference_activate(clip(v, 18), table)
    v = random.integers(-(2**25), 2**25, 500)
    gates = random.integers(0, 32769, 500)
    assert stage2_constant(v, 51000, 21).tolist() == [clip(half_up(int(x) * 51000, 21), 16) for x in v]
    assert stage2_gate(v, gates).tolist() == [
        clip(half_up(int(x) * int(g), 15), 16) for x, g in zip(v, gates, strict=True)
    ]
    # a gate of one changes nothing
    small = np.arange(-32768, 32768)
    assert (stage2_gate(small, np.int64(32768)) == small).all()
    assert math.isclose(float(stage2_gate(np.array([1000]), np.array([16384]))[0]), 500)
