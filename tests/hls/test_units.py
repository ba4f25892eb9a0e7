"""The arithmetic of the units on whole input ranges, and on the edges of theirs, against the NumPy model."""

from __future__ import annotations

import numpy as np
import pytest
from draw import CONFIGS, program_of

from hwattn.hls.csim import CMachine
from hwattn.sim.model.layernorm import reciprocal_square_root
from hwattn.sim.model.post import activate, reciprocal
from hwattn.sim.model.softmax import probabilities
from hwattn.spec.numbers import SHIFT_MAX, requantize
from hwattn.spec.program import Program
from hwattn.spec.tables import ACTIVATION_INPUT_BITS, ACTIVATIONS, activation_table
from hwattn.spec.widths import RESULT_BITS, VARIANCE_BITS

COUNT = 20_000


@pytest.fixture(scope="module")
def machine():
    return CMachine(CONFIGS[0])


def mixed(random, bits, count=COUNT):
    """Unsigned integers of every length up to `bits`, the largest of each among them."""
    length = random.integers(1, bits + 1, count)
    drawn = random.integers(0, 1 << 62, count) & ((1 << length) - 1)
    drawn[:bits] = (1 << np.arange(1, bits + 1)) - 1
    return drawn


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_every_input(machine, name):
    program = program_of(machine.config, [], np.random.default_rng(1))
    machine.load(Program(**{**vars(program), "activation": name}))
    half = 1 << (ACTIVATION_INPUT_BITS - 1)
    v = np.arange(-half, half, dtype=np.int32)
    found = np.empty_like(v)
    machine.unit("activate", [v], found)
    assert np.array_equal(found, activate(v.astype(np.int64), activation_table(name)))


def test_probability_of_every_distance(machine):
    distance = np.arange(1 << 17, dtype=np.uint32)
    found = np.empty_like(distance)
    machine.unit("probability", [distance], found)
    assert np.array_equal(found, probabilities(distance.astype(np.int64)))


def test_reciprocal(machine):
    random = np.random.default_rng(2)
    total = mixed(random, 32)
    total[-1] = 0
    m2, s2 = mixed(random, 16), random.integers(1, 16, COUNT)
    found = np.empty((COUNT, 2), np.uint32)
    machine.unit("reciprocal", [array.astype(np.uint32) for array in (total, m2, s2)], found)
    wanted = [reciprocal(total[i], int(m2[i]), int(s2[i])) for i in range(COUNT)]
    assert np.array_equal(found, np.array(wanted))


def test_reciprocal_square_root(machine):
    variance = np.maximum(mixed(np.random.default_rng(3), VARIANCE_BITS), 1)
    found = np.empty((COUNT, 2), np.uint32)
    machine.unit("reciprocal_square_root", [variance.astype(np.uint64)], found)
    assert np.array_equal(found, np.stack(reciprocal_square_root(variance), axis=1))


def test_requantize(machine):
    random = np.random.default_rng(4)
    accumulator = mixed(random, 32) * random.choice([-1, 1], COUNT)
    accumulator[:2] = -(1 << 32), (1 << 32) - 1
    multiplier, shift = mixed(random, 16), random.integers(1, SHIFT_MAX + 1, COUNT)
    found = np.empty(COUNT, np.int32)
    machine.unit("requantize", [accumulator, multiplier.astype(np.uint32), shift.astype(np.uint32)], found)
    assert np.array_equal(found, requantize(accumulator, multiplier, shift, RESULT_BITS))
