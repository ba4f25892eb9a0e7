"""The host's way to external memory: single words, and nothing while the machine needs the port or the memory owes an answer."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from bench import Bench, Context, lanes_of, word_of

from hwattn.rtl.external_access import ExternalAccess
from hwattn.rtl.host import Host
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.registers import WINDOW_UNITS, Control, Region, Register, address

PAGE_BYTES = 4096
PAGE = 5


def config(lanes: int) -> AcceleratorConfig:
    return AcceleratorConfig(lanes=lanes, norm_lanes=1, act_banks=2, act_words=16, external_words=1 << 30)


class Memory:
    """Words of external memory behind the AXI4 port of an access, by number; answers where it is not silent."""

    def __init__(self, bench: Bench, axi: Any, lanes: int) -> None:
        self.bench, self.axi, self.lanes = bench, axi, lanes
        self.words: dict[int, np.ndarray] = {}
        self.silent = False
        bench.background(self.serve)

    def word(self, number: int) -> np.ndarray:
        return self.words.setdefault(number, np.zeros(self.lanes, np.uint8))

    async def take(self, ctx: Context, channel: str) -> None:
        ready, valid = getattr(self.axi, f"{channel}ready"), getattr(self.axi, f"{channel}valid")
        assert ctx.get(valid)
        ctx.set(ready, 1)
        await ctx.tick()
        ctx.set(ready, 0)

    async def serve(self, ctx: Context) -> None:
        axi = self.axi
        while True:
            await ctx.tick()
            if self.silent or not self.bench.go():
                continue
            if ctx.get(axi.arvalid):
                assert ctx.get(axi.arlen) == 0
                number = (ctx.get(axi.araddr) - PAGE * PAGE_BYTES) // self.lanes
                await self.take(ctx, "ar")
                await self.bench.wait(ctx, 3)
                ctx.set(axi.rdata, word_of(self.word(number)))
                ctx.set(axi.rvalid, 1)
                await ctx.tick().until(axi.rready)
                ctx.set(axi.rvalid, 0)
            elif ctx.get(axi.awvalid):
                number = (ctx.get(axi.awaddr) - PAGE * PAGE_BYTES) // self.lanes
                await self.take(ctx, "aw")
                assert ctx.get(axi.wlast)
                given, strobe = lanes_of(ctx.get(axi.wdata), self.lanes), ctx.get(axi.wstrb)
                await self.take(ctx, "w")
                for lane in range(self.lanes):
                    if strobe >> lane & 1:
                        self.word(number)[lane] = given.view(np.uint8)[lane]
                ctx.set(axi.bvalid, 1)
                await ctx.tick().until(axi.bready)
                ctx.set(axi.bvalid, 0)


async def ask(ctx: Context, bench: Bench, dut: Any, word: int, **write: int) -> int:
    request = {"write": int(bool(write)), "word": word, "data": 0, "mask": 0, **write}
    await bench.send(ctx, dut.port.request, request)
    while not ctx.get(dut.port.done):
        await ctx.tick()
    return int(ctx.get(dut.port.data))


@pytest.mark.parametrize("lanes", [4, 16])
def test_words_go_there_and_back(lanes: int) -> None:
    dut = ExternalAccess(config(lanes))
    bench = Bench(dut, seed=lanes)
    memory = Memory(bench, dut.axi, lanes)

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 1000)
        ctx.set(dut.rest, 1)
        for word in (0, 17, (1 << 30) - 1):
            await ask(ctx, bench, dut, word, data=word_of(range(lanes)), mask=0b0110)
            assert memory.word(word).tolist() == [0, 1, 2] + [0] * (lanes - 3)
            assert await ask(ctx, bench, dut, word) == 0x020100
        ctx.set(dut.rest, 0)
        await ask(ctx, bench, dut, 17, data=-1, mask=0b1111)
        assert await ask(ctx, bench, dut, 17) == 0, "a machine at work keeps its port"
        assert memory.word(17).tolist() == [0, 1, 2] + [0] * (lanes - 3)

    bench.run(test)


def test_a_silent_memory_holds_up_no_host() -> None:
    dut = ExternalAccess(config(4))
    bench = Bench(dut, seed=1, stall=0)
    memory = Memory(bench, dut.axi, 4)
    memory.words[9] = np.array([1, 2, 3, 4], np.uint8)
    memory.silent = True

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 50)
        ctx.set(dut.rest, 1)
        assert await ask(ctx, bench, dut, 9) == 0
        assert ctx.get(dut.busy), "its answer is still owed"
        await ask(ctx, bench, dut, 9, data=0, mask=0b1111)
        assert await ask(ctx, bench, dut, 9) == 0
        memory.silent = False
        await bench.wait(ctx, 20)
        assert not ctx.get(dut.busy)
        assert await ask(ctx, bench, dut, 9) == 0x04030201

    bench.run(test)


@pytest.mark.parametrize("lanes", [4, 16])
def test_the_region_the_window_and_the_scan(lanes: int) -> None:
    dut = Host(config(lanes))
    bench = Bench(dut, seed=lanes)
    units: dict[int, int] = {}
    answers = bench.collect(dut.response)

    async def serve(ctx: Context) -> None:
        port = dut.external
        while True:
            ctx.set(port.request.ready, bench.go())
            *_, valid, ready, asked = await ctx.tick().sample(
                port.request.valid, port.request.ready, port.request.payload
            )
            if not (valid and ready):
                continue
            ctx.set(port.request.ready, 0)
            first = asked.word * lanes // 4
            for unit in range(lanes // 4):
                if asked.write and asked.mask >> 4 * unit & 1:
                    assert asked.mask == 0b1111 << 4 * unit
                    units[first + unit] = asked.data >> 32 * unit & 0xFFFFFFFF
            await bench.wait(ctx, bench.random.randrange(5))
            ctx.set(port.data, sum(units.get(first + unit, 0) << 32 * unit for unit in range(lanes // 4)))
            ctx.set(port.done, 1)
            await ctx.tick()
            ctx.set(port.done, 0)

    bench.background(serve)

    async def send(ctx: Context, write: int, target: int, value: int = 0) -> None:
        await bench.send(ctx, dut.request, {"write": write, "addr": target, "data": value})

    async def read(ctx: Context, target: int) -> int:
        known = len(answers)
        await send(ctx, 0, target)
        while len(answers) == known:
            await ctx.tick()
        return int(answers[-1])

    async def test(ctx: Context) -> None:
        ctx.set(dut.register_write.ready, 1)
        for window in (0, 3):
            ctx.set(dut.window, window)
            for unit in (0, 5, WINDOW_UNITS - 1):
                await send(ctx, 1, address(Region.EXTERNAL, unit), unit + window)
                assert await read(ctx, address(Region.EXTERNAL, unit)) == unit + window
                assert units[window * WINDOW_UNITS + unit] == unit + window
        first, words = (1 << 30) - 9, 3
        contents = bench.random.randbytes(words * lanes)
        for unit, value in enumerate(np.frombuffer(contents, "<u4").tolist()):
            units[first * lanes // 4 + unit] = value
        ctx.set(dut.scan_base, first)
        ctx.set(dut.scan_words, words)
        await send(ctx, 1, address(Region.CSR, Register.CONTROL), Control.SCAN_EXTERNAL)
        await read(ctx, address(Region.CSR, Register.SCAN_CRC))
        assert ctx.get(dut.scan_crc) == zlib.crc32(contents)

    bench.run(test)
