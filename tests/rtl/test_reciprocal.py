from __future__ import annotations

import numpy as np
import pytest
from bench import Bench, Context

from hwattn.rtl.reciprocal import Reciprocal
from hwattn.sim.model.post import reciprocal
from hwattn.spec.config import AcceleratorConfig

TOTALS = [
    0,
    1,
    2,
    3,
    65535,
    65536,
    65537,
    98304,
    2**31 - 1,
    2**31,
    2**31 + 1,
    2**32 - 1,
    3 * 2**20,
    0xAAAAAAAA,
]


@pytest.mark.parametrize(("rows", "post_lanes"), [(1, 1), (3, 1), (4, 2), (5, 3), (13, 4), (20, 10)])
def test_every_row_in_order(rows: int, post_lanes: int) -> None:
    config = AcceleratorConfig(rows=rows, post_lanes=post_lanes, softmax_lanes=1)
    dut = Reciprocal(config)
    bench = Bench(dut, seed=rows)
    totals: list[list[int]] = [[0] * rows for _ in range(4)]

    async def look_up(ctx: Context) -> None:
        while True:
            state, row = ctx.get(dut.sums.state), ctx.get(dut.sums.row)
            ctx.set(dut.sums.total, totals[state][min(row, rows - 1)])
            await ctx.tick()

    bench.background(look_up)

    async def test(ctx: Context) -> None:
        for trial in range(12):
            state, count = trial % 4, bench.random.randint(1, rows)
            totals[state] = [
                bench.random.choice([*TOTALS, bench.random.getrandbits(32), bench.random.getrandbits(20)])
                for _ in range(rows)
            ]
            m2, s2 = bench.random.choice([1 << 15, 65535, bench.random.randrange(1 << 15, 1 << 16)]), 10
            for name, value in {"rows": count, "state": state, "m2": m2, "s2": s2, "start": 1}.items():
                ctx.set(getattr(dut, name), value)
            await bench.wait(ctx, 1)
            ctx.set(dut.start, 0)
            found: list[tuple[int, int]] = []
            while len(found) < count:
                *_, valid, multiplier, shift = await ctx.tick().sample(dut.valid, dut.multiplier, dut.shift)
                if valid:
                    found.append((multiplier, shift))
            expected = reciprocal(np.array(totals[state][:count]), m2, s2)
            assert found == list(zip(*(each.tolist() for each in expected), strict=True))
            for _ in range(25):
                *_, valid = await ctx.tick().sample(dut.valid)
                assert not valid

    bench.run(test)
