"""Counters in memory against plain ones."""

from __future__ import annotations

import random

import pytest
from bench import Bench

from hwattn.rtl.counters import READ_SPACING, Counters

CYCLES = 1500


@pytest.mark.parametrize("share", [0.3, 1.0], ids=["some events", "every event, always"])
@pytest.mark.parametrize("most", [(1,), (1, 7, 1), (1,) * 20 + (3,)], ids=["one", "three", "many"])
def test_counts_as_plain_counters(most, share):
    dut = Counters(most, width=11)
    chance = random.Random(len(most))

    async def test(ctx):
        expected, checked, since = [0] * len(most), 0, READ_SPACING
        for _ in range(CYCLES):
            clear, count = chance.random() < 0.003, share == 1 or chance.random() < 0.9
            events = [
                limit if share == 1 else chance.randint(0, limit) * (chance.random() < share)
                for limit in most
            ]
            since += 1
            read = since >= READ_SPACING and (share == 1 or chance.random() < 0.5)
            # often one that has just been read, or is about to be visited
            index = chance.randrange(len(most))
            ctx.set(dut.clear, clear)
            ctx.set(dut.count, count)
            for number, event in enumerate(events):
                ctx.set(dut.events[number], event)
            ctx.set(dut.read, read)
            ctx.set(dut.chosen, 1 << index)
            await ctx.tick()
            for number, event in enumerate(events):
                expected[number] = 0 if clear else expected[number] + event * count
            if read:
                assert ctx.get(dut.value) == expected[index] % (1 << 11)
                since, checked = 0, checked + 1
        assert checked > CYCLES / READ_SPACING / 4

    Bench(dut).run(test)
