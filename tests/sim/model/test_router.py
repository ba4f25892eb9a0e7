"""The router's model: against integers of unlimited size."""

from __future__ import annotations

import numpy as np
import pytest

from hwattn.sim.model.router import combine, route
from hwattn.spec.tables import exponential_table

TABLE = [int(entry) for entry in exponential_table()]


def half_up(value, shift):
    return (value + (1 << shift >> 1)) >> shift


def clip(value, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def reference(scores, score_shift, multiplier, shift, k, renormalize):
    order = sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]
    y = [clip(half_up(clip(half_up(s, score_shift), 32) * multiplier, shift), 16) for s in scores]
    m = (y[order[0]] + 255) >> 8
    p16 = []
    for value in y:
        i, f = divmod(max(0, 256 * m - value), 256)
        p16.append(min(65535, half_up(TABLE[f], i)) if i < 18 else 0)
    total = sum(p16[e] for e in order) if renormalize else sum(p16)
    return order, [min(32768, ((p16[e] << 16) // total + 1) >> 1) for e in order]


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (2, 2), (5, 1), (8, 2), (16, 4), (255, 3)])
@pytest.mark.parametrize("renormalize", [False, True])
def test_equals_the_reference(experts, k, renormalize):
    random = np.random.default_rng(experts)
    for width in (2, 12, 30, 47):
        score = random.integers(-(2**width), 2**width, (3, 7, experts))
        fields = int(random.integers(0, 20)), int(random.integers(2**15, 2**16)), int(random.integers(4, 30))
        chosen, gates = route(score, *fields, k, renormalize)
        for b in range(3):
            for t in range(7):
                expected = reference(score[b, t].tolist(), *fields, k, renormalize)
                assert (chosen[b, t].tolist(), gates[b, t].tolist()) == expected


def test_ties_go_to_the_lower_expert():
    chosen, gates = route(np.array([[5, 9, 9, 1, 9]]), 0, 1 << 15, 15, 3, True)
    assert chosen.tolist() == [[1, 2, 4]]
    assert len(set(gates[0].tolist())) == 1


def test_a_single_expert_has_a_gate_of_one():
    assert route(np.array([[-123]]), 0, 1 << 15, 20, 1, False)[1].tolist() == [[32768]]


def test_combine_adds_the_digit_passes():
    random = np.random.default_rng(6)
    columns, bias = random.integers(-(2**31), 2**31, (4, 9)), random.integers(-(2**40), 2**40, 3)
    score = combine(columns, bias)
    for row in range(4):
        for e in range(3):
            c0, c1, c2 = (int(c) for c in columns[row, 3 * e : 3 * e + 3])
            wrapped = (c0 + (c1 << 8) + (c2 << 16) + int(bias[e]) + 2**47) % 2**48 - 2**47
            assert score[row, e] == wrapped
