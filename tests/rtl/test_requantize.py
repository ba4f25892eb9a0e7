from __future__ import annotations

import numpy as np
import pytest
from bench import Bench, Context

from hwattn.rtl.exponential import Exponential
from hwattn.rtl.requantize import Requantizer
from hwattn.sim.model.softmax import probabilities
from hwattn.spec.numbers import requantize


def edge_values(bits: int) -> list[int]:
    limit = 1 << (bits - 1)
    return [-limit, 1 - limit, -1, 0, 1, limit - 1, limit // 2, -limit // 2]


@pytest.mark.parametrize(("value_bits", "bits"), [(33, 18), (32, 16), (26, 16), (18, 16)])
@pytest.mark.parametrize("lanes", [1, 3])
def test_every_shift_rounds_half_up_and_saturates(value_bits: int, bits: int, lanes: int) -> None:
    dut = Requantizer(lanes, value_bits, bits)
    bench = Bench(dut, seed=lanes)
    limit = 1 << (value_bits - 1)
    values, multipliers, shifts = [], [], []
    for shift in range(1, 48):
        for edge in edge_values(value_bits):
            values.append(edge)
            multipliers.append(bench.random.choice([0, 1, 1 << 15, 65535]))
            shifts.append(shift)
        for _ in range(4):
            # results around the limits and around halves
            multiplier = bench.random.randrange(1 << 15, 1 << 16)
            near = ((1 << (bits - 1)) << shift) // multiplier + bench.random.randint(-2, 2)
            values.append(max(-limit, min(limit - 1, near * bench.random.choice([-1, 1]))))
            multipliers.append(multiplier)
            shifts.append(shift)
    count = len(values) // lanes * lanes
    columns = [np.array(each[:count]).reshape(-1, lanes) for each in (values, multipliers, shifts)]
    expected = requantize(columns[0], columns[1], columns[2], bits)

    async def test(ctx: Context) -> None:
        for cycle in range(len(expected) + Requantizer.DELAY):
            if cycle >= Requantizer.DELAY:
                found = [ctx.get(dut.result[i]) for i in range(lanes)]
                assert found == list(expected[cycle - Requantizer.DELAY])
            for i in range(lanes if cycle < len(expected) else 0):
                ctx.set(dut.value[i], int(columns[0][cycle, i]))
                ctx.set(dut.multiplier[i], int(columns[1][cycle, i]))
                ctx.set(dut.shift[i], int(columns[2][cycle, i]))
            await ctx.tick()

    bench.run(test)


def test_exponential_over_its_whole_range() -> None:
    dut = Exponential(2)
    bench = Bench(dut)
    distances = np.array([*range(19 * 256), 32768, 65535, 65536, 98304])
    expected = probabilities(distances)

    async def test(ctx: Context) -> None:
        ctx.set(dut.enable, 1)
        for cycle in range(len(distances) + Exponential.DELAY):
            if cycle >= Exponential.DELAY:
                assert ctx.get(dut.result[0]) == expected[cycle - Exponential.DELAY]
                assert ctx.get(dut.result[1]) == 0
            if cycle < len(distances):
                ctx.set(dut.distance[0], int(distances[cycle]))
                ctx.set(dut.distance[1], int(distances[cycle]))
            await ctx.tick()

    bench.run(test)
