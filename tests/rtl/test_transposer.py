from __future__ import annotations

import numpy as np
import pytest
from bench import Bench, Context

from hwattn.rtl.transposer import Transposer


@pytest.mark.parametrize(
    ("rows", "lanes", "width"), [(1, 4, 1), (3, 4, 2), (4, 8, 1), (5, 4, 3), (5, 8, 1), (7, 4, 7)]
)
def test_groups_pass_in_order_while_others_are_filled(rows: int, lanes: int, width: int) -> None:
    dut = Transposer(rows, lanes, width)
    bench = Bench(dut, seed=rows)
    rng = np.random.default_rng(rows)
    groups = rng.integers(-(2**15), 2**15, (12, lanes, rows))
    chunks = -(-rows // width)

    async def fill(ctx: Context) -> None:
        for group in groups:
            while not (ctx.get(dut.available) and bench.go()):
                await ctx.tick()
            for column in range(int(rng.integers(1, lanes + 1)) if group is groups[-1] else lanes):
                for chunk in range(chunks):
                    ctx.set(dut.reserve, column == 0 and chunk == 0)
                    ctx.set(dut.write, 1)
                    ctx.set(dut.write_last, column == lanes - 1 and chunk == chunks - 1)
                    ctx.set(dut.write_column, column)
                    ctx.set(dut.write_chunk, chunk)
                    for i, value in enumerate(group[column, chunk * width : (chunk + 1) * width]):
                        ctx.set(dut.values[i], int(value))
                    await ctx.tick()
                    ctx.set(dut.write, 0)
                    ctx.set(dut.reserve, 0)
                    while not bench.go():
                        await ctx.tick()

    async def test(ctx: Context) -> None:
        for group in groups[:-1]:
            while not ctx.get(dut.full):
                await ctx.tick()
            for row in range(rows):
                ctx.set(dut.read_chunk, row // width)
                ctx.set(dut.read_lane, row % width)
                assert [ctx.get(dut.row[i]) for i in range(lanes)] == list(group[:, row])
                await bench.wait(ctx, bench.random.randint(0, 2))
            for column in range(lanes):
                ctx.set(dut.read_column, column)
                found = []
                for chunk in range(chunks):
                    ctx.set(dut.read_chunk, chunk)
                    found += [ctx.get(dut.column[i]) for i in range(width)]
                assert found[:rows] == list(group[column])
            ctx.set(dut.release, 1)
            await ctx.tick()
            ctx.set(dut.release, 0)

    bench.background(fill)
    bench.run(test)


def test_only_so_many_groups_are_available() -> None:
    dut = Transposer(4, 4, 2)
    bench = Bench(dut)

    async def test(ctx: Context) -> None:
        for _ in range(dut.groups):
            assert ctx.get(dut.available)
            ctx.set(dut.reserve, 1)
            await ctx.tick()
        assert not ctx.get(dut.available)
        ctx.set(dut.reserve, 0)
        ctx.set(dut.write, 1)
        ctx.set(dut.write_last, 1)
        assert not ctx.get(dut.full)
        await ctx.tick()
        ctx.set(dut.write, 0)
        assert ctx.get(dut.full)
        ctx.set(dut.release, 1)
        await ctx.tick()
        assert ctx.get(dut.available)
        assert not ctx.get(dut.full)

    bench.run(test)
