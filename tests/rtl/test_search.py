"""The search for the k largest scores of each row."""

from __future__ import annotations

import numpy as np
import pytest
from bench import Bench

from hwattn.rtl.search import Search


@pytest.mark.parametrize(("lanes", "depth", "k"), [(1, 1, 1), (2, 3, 3), (3, 8, 2), (2, 16, 15)])
def test_finds_the_largest_in_order(lanes, depth, k):
    dut = Search(lanes, depth)
    bench = Bench(dut, seed=depth)
    random = np.random.default_rng(depth)

    async def test(ctx):
        for span in (1, 2, 100, 2**47):
            experts = int(random.integers(k, depth + 1))
            scores = random.integers(-span, span, (experts, lanes))
            ctx.set(dut.experts, experts)
            ctx.set(dut.k, k)
            ctx.set(dut.write, 1)
            for expert in range(experts):
                ctx.set(dut.write_expert, expert)
                ctx.set(dut.scores, [int(score) for score in scores[expert]])
                ctx.set(dut.start, expert == experts - 1)
                await ctx.tick()
            ctx.set(dut.write, 0)
            ctx.set(dut.start, 0)
            assert not ctx.get(dut.finished)
            await ctx.tick().until(dut.finished)
            expected = np.argsort(-scores, axis=0, kind="stable")[:k]
            for rank in range(k):
                ctx.set(dut.rank, rank)
                await ctx.delay(0)
                found = ctx.get(dut.chosen)
                assert [found[lane] for lane in range(lanes)] == expected[rank].tolist()

    bench.run(test)
