"""External memory behind the read or the write channels of a unit, in Amaranth's simulator."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from bench import Bench, Context, lanes_of, word_of

PAGE = 3
"""Where external memory starts, in pages of `PAGE_BYTES`."""

PAGE_BYTES = 4096


class Slave:
    """External memory behind the read or the write channels, checking the protocol's rules for bursts."""

    def __init__(self, bench: Bench, axi: Any, words: np.ndarray) -> None:
        self.bench, self.axi, self.words = bench, axi, words
        self.lanes = words.shape[1]
        self.reads: deque[tuple[int, int]] = deque()
        self.bad_after = -1

    def burst(self, address: int, length: int) -> tuple[int, int]:
        assert address % self.lanes == 0
        assert address // PAGE_BYTES == (address + (length + 1) * self.lanes - 1) // PAGE_BYTES, (
            "crosses a page"
        )
        return (address - PAGE * PAGE_BYTES) // self.lanes, length + 1

    async def take_addresses(self, ctx: Context) -> None:
        axi = self.axi
        while True:
            ctx.set(axi.arready, self.bench.go())
            *_, valid, ready, address, length = await ctx.tick().sample(
                axi.arvalid, axi.arready, axi.araddr, axi.arlen
            )
            if valid and ready:
                self.reads.append(self.burst(address, length))

    async def give_words(self, ctx: Context) -> None:
        axi, given = self.axi, 0
        while True:
            if not self.reads:
                await ctx.tick()
                continue
            first, count = self.reads.popleft()
            for number in range(count):
                while not self.bench.go():
                    await ctx.tick()
                ctx.set(axi.rvalid, 1)
                ctx.set(axi.rdata, word_of(self.words[first + number]))
                ctx.set(axi.rlast, number == count - 1)
                ctx.set(axi.rresp, 2 if 0 <= self.bad_after <= given else 0)
                await ctx.tick().until(axi.rready)
                ctx.set(axi.rvalid, 0)
                given += 1

    async def take_words(self, ctx: Context) -> None:
        axi = self.axi
        while True:
            ctx.set(axi.awready, self.bench.go())
            *_, valid, ready, address, length = await ctx.tick().sample(
                axi.awvalid, axi.awready, axi.awaddr, axi.awlen
            )
            if not (valid and ready):
                continue
            ctx.set(axi.awready, 0)
            first, count = self.burst(address, length)
            for number in range(count):
                taken = False
                while not taken:
                    ctx.set(axi.wready, self.bench.go())
                    *_, valid, ready, word, last = await ctx.tick().sample(
                        axi.wvalid, axi.wready, axi.wdata, axi.wlast
                    )
                    taken = bool(valid and ready)
                assert last == (number == count - 1)
                self.words[first + number] = lanes_of(word, self.lanes)
            ctx.set(axi.wready, 0)
            await self.bench.wait(ctx, self.bench.random.randrange(9))
            ctx.set(axi.bresp, 2 if self.bad_after == 0 else 0)
            ctx.set(axi.bvalid, 1)
            await ctx.tick().until(axi.bready)
            ctx.set(axi.bvalid, 0)
