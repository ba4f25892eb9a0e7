"""The router against its model: scores, ranks, gate weights, queues and metaqueue."""

from __future__ import annotations

import numpy as np
import pytest
from bench import Bench

from hwattn.rtl.router import Router
from hwattn.sim.model.router import combine, route
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Route

CONFIGS = {
    "4 rows, 8 experts": AcceleratorConfig(rows=4, softmax_lanes=2, experts=8, tokens=32, acc_columns=32),
    "3 rows, 5 experts": AcceleratorConfig(
        rows=3, post_lanes=1, softmax_lanes=1, experts=5, tokens=13, acc_columns=16
    ),
    "1 row, 1 expert": AcceleratorConfig(
        rows=1, post_lanes=1, softmax_lanes=1, experts=1, tokens=6, acc_columns=4
    ),
    "7 rows, 17 experts": AcceleratorConfig(rows=7, softmax_lanes=3, experts=17, tokens=20, acc_columns=32),
}


class Fixture:
    """A router, its bench and the queues as the model says they must be."""

    def __init__(self, config, seed):
        self.config = config
        self.dut = Router(config)
        self.bench = Bench(self.dut, seed=seed)
        self.random = np.random.default_rng(seed)
        self.columns = np.zeros((2 * config.acc_columns, config.rows), np.int64)
        self.bias = self.random.integers(-(2**30), 2**30, 64)
        self.bench.accumulators(self.dut.acc, self.columns)
        self.bench.registered(
            [self.dut.param.addr], [self.dut.param.data], lambda addr: (int(self.bias[addr % 64]) % 2**48,)
        )
        self.queues = {e: [] for e in range(config.experts)}

    def scores(self, instruction, kind):
        """Put accumulators in place whose scores are spread, tied, or at the limits."""
        used = self.columns[instruction.acc_base : instruction.acc_base + 3 * instruction.experts]
        if kind == "ties":
            used[...] = self.random.integers(0, 2, used.shape)
            self.bias[...] = 0
        elif kind == "limits":
            used[...] = self.random.choice([-(2**31), 2**31 - 1, 0], used.shape)
            self.bias[...] = self.random.choice([-(2**47), 2**47 - 1, 0], 64)
        else:
            used[...] = self.random.integers(-(2**22), 2**22, used.shape)
            self.bias[...] = self.random.integers(-(2**30), 2**30, 64)

    def expect(self, i):
        """Do what the model does."""
        if i.clear:
            self.queues = {e: [] for e in self.queues}
        columns = self.columns[i.acc_base : i.acc_base + 3 * i.experts].T[: i.rows]
        score = combine(columns, self.bias[i.param_base : i.param_base + i.experts])
        chosen, gates = route(score, i.score_shift, i.multiplier, i.shift, i.k, bool(i.renormalize))
        for r in range(i.rows):
            for expert, gate in zip(chosen[r].tolist(), gates[r].tolist(), strict=True):
                self.queues[expert].append((i.token + r, gate))

    async def check_queues(self, ctx):
        for port in self.dut.entries:
            for expert, queue in self.queues.items():
                for index, entry in enumerate(queue):
                    ctx.set(port.expert, expert)
                    ctx.set(port.index, index)
                    await ctx.tick()
                    assert (ctx.get(port.token), ctx.get(port.gate)) == entry, (expert, index)

    async def check_metaqueue(self, ctx):
        filled = [(expert, len(queue)) for expert, queue in sorted(self.queues.items()) if queue]
        for port in self.dut.lookups:
            for meta in range(self.config.experts + 1):
                ctx.set(port.meta, meta)
                await ctx.delay(0)
                assert ctx.get(port.present) == (meta < len(filled))
                if meta < len(filled):
                    assert (ctx.get(port.expert), ctx.get(port.count)) == filled[meta]

    def instruction(self, **fields):
        config, random = self.config, self.random
        experts = fields.pop("experts", int(random.integers(1, config.experts + 1)))
        drawn = {
            "acc_base": int(random.integers(0, 2 * config.acc_columns - 3 * experts + 1)),
            "rows": int(random.integers(1, config.rows + 1)),
            "token": int(random.integers(0, 1000)),
            "experts": experts,
            "k": int(random.integers(1, min(experts, 4) + 1)),
            "renormalize": int(random.integers(2)),
            "score_shift": int(random.integers(0, 24)),
            "multiplier": int(random.integers(2**15, 2**16)),
            "shift": int(random.integers(16, 36)),
            "param_base": int(random.integers(0, 64 - experts)),
        }
        return Route(**(drawn | fields))


@pytest.mark.parametrize("kind", ["spread", "ties", "limits"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_the_model(config, kind):
    fixture = Fixture(config, seed=len(kind) + config.rows)

    async def test(ctx):
        for _ in range(3):
            experts = int(fixture.random.integers(1, config.experts + 1))
            k = int(fixture.random.integers(1, min(experts, 4) + 1))
            tiles = config.tokens // config.rows
            for tile in range(min(tiles, 3)):
                instruction = fixture.instruction(
                    experts=experts,
                    k=k,
                    token=tile * config.rows,
                    clear=int(tile == 0),
                    last=int(tile == min(tiles, 3) - 1),
                )
                fixture.scores(instruction, kind)
                fixture.expect(instruction)
                await fixture.bench.execute(ctx, fixture.dut, instruction)
            await fixture.check_queues(ctx)
            await fixture.check_metaqueue(ctx)

    fixture.bench.run(test)


def test_every_rank_of_fifteen():
    config = AcceleratorConfig(rows=2, post_lanes=1, softmax_lanes=2, experts=16, tokens=4, acc_columns=32)
    fixture = Fixture(config, seed=3)

    async def test(ctx):
        for renormalize in (0, 1):
            instruction = fixture.instruction(
                experts=16, k=15, rows=2, renormalize=renormalize, clear=1, last=1, acc_base=0
            )
            fixture.scores(instruction, "ties" if renormalize else "spread")
            fixture.expect(instruction)
            await fixture.bench.execute(ctx, fixture.dut, instruction)
            await fixture.check_queues(ctx)
            await fixture.check_metaqueue(ctx)

    fixture.bench.run(test)


def test_scores_that_vanish_and_shifts_at_their_ends():
    config = CONFIGS["4 rows, 8 experts"]
    fixture = Fixture(config, seed=4)

    async def test(ctx):
        for score_shift, shift in [(0, 1), (0, 47), (63, 1), (47, 16), (1, 24)]:
            for kind in ("spread", "limits"):
                instruction = fixture.instruction(
                    experts=8, k=3, rows=4, score_shift=score_shift, shift=shift, clear=1, last=1, acc_base=0
                )
                fixture.scores(instruction, kind)
                fixture.expect(instruction)
                await fixture.bench.execute(ctx, fixture.dut, instruction)
                await fixture.check_queues(ctx)

    fixture.bench.run(test)


def test_the_metaqueue_stays_until_the_next_last():
    config = CONFIGS["3 rows, 5 experts"]
    fixture = Fixture(config, seed=5)

    async def test(ctx):
        first = fixture.instruction(clear=1, last=1)
        fixture.scores(first, "spread")
        fixture.expect(first)
        await fixture.bench.execute(ctx, fixture.dut, first)
        await fixture.check_metaqueue(ctx)
        kept = {expert: list(queue) for expert, queue in fixture.queues.items()}
        second = fixture.instruction(clear=1, last=0)
        fixture.scores(second, "spread")
        fixture.expect(second)
        await fixture.bench.execute(ctx, fixture.dut, second)
        await fixture.check_queues(ctx)
        fixture.queues, appended = kept, fixture.queues
        await fixture.check_metaqueue(ctx)
        fixture.queues = appended

    fixture.bench.run(test)


@pytest.mark.parametrize("after", [1, 9, 30, 47, 60, 90, 140])
def test_reset_in_the_middle(after):
    config = CONFIGS["4 rows, 8 experts"]
    fixture = Fixture(config, seed=6)

    async def test(ctx):
        cut = fixture.instruction(experts=8, k=2, rows=4, clear=1, last=1)
        fixture.scores(cut, "spread")
        await fixture.bench.start(ctx, fixture.dut, cut)
        await fixture.bench.wait(ctx, after)
        await fixture.bench.reset(ctx)
        assert not ctx.get(fixture.dut.busy)
        fixture.queues = {e: [] for e in fixture.queues}
        await fixture.check_metaqueue(ctx)
        whole = fixture.instruction(experts=7, k=3, rows=3, clear=1, last=1)
        fixture.scores(whole, "spread")
        fixture.expect(whole)
        await fixture.bench.execute(ctx, fixture.dut, whole)
        await fixture.check_queues(ctx)
        await fixture.check_metaqueue(ctx)

    fixture.bench.run(test)
