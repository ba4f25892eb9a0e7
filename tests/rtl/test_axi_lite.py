"""The AXI4-Lite slave against a machine in plain Python, with stalls on every channel, and the host's mapped bus through it."""

from __future__ import annotations

import random

import pytest
from bench import Bench, Context

from hwattn.rtl.axi_lite import OKAY, SLAVE_ERROR, AxiLite
from hwattn.spec.registers import AXI_ADDRESS, AXI_BYTES, AXI_CSR_BYTES, AXI_DATA, Region, address

FULL = 0b1111


class Master:
    """An AXI4-Lite master whose channels start and wait independently of each other, and a memory behind the slave."""

    def __init__(self, seed: int, stall: float) -> None:
        self.dut = AxiLite()
        self.bench = Bench(self.dut, seed=seed, stall=stall)
        self.units: dict[int, int] = {}
        self.bench.background(self.serve)
        self.ready: dict[str, list[tuple[str, dict[str, int]]]] = {name: [] for name in ("aw", "w", "ar")}
        self.answers: dict[str, list[tuple[int, int]]] = {"b": [], "r": []}
        for channel in self.ready:
            self.bench.background(lambda ctx, channel=channel: self.drive(ctx, channel))
        for channel in self.answers:
            self.bench.background(lambda ctx, channel=channel: self.take(ctx, channel))

    def port(self, name: str):
        return getattr(self.dut, f"s_axi_{name}")

    async def drive(self, ctx: Context, channel: str) -> None:
        waiting = self.ready[channel]
        while True:
            if not waiting or not self.bench.go():
                await ctx.tick()
                continue
            _, fields = waiting[0]
            for name, value in fields.items():
                ctx.set(self.port(channel + name), value)
            ctx.set(self.port(channel + "valid"), 1)
            taken = False
            while not taken:
                *_, taken = await ctx.tick().sample(self.port(channel + "ready"))
            ctx.set(self.port(channel + "valid"), 0)
            waiting.pop(0)

    async def take(self, ctx: Context, channel: str) -> None:
        payload = [self.port(channel + "resp"), self.port("rdata") if channel == "r" else self.port("bresp")]
        valid, ready, held = self.port(channel + "valid"), self.port(channel + "ready"), None
        while True:
            ctx.set(ready, self.bench.go())
            *_, is_valid, is_ready, response, value = await ctx.tick().sample(valid, ready, *payload)
            assert held is None or (is_valid and held == (response, value)), (
                "an answer changed while it waited"
            )
            held = (response, value) if is_valid and not is_ready else None
            if is_valid and is_ready:
                self.answers[channel].append((response, value))

    async def serve(self, ctx: Context) -> None:
        request, response = self.dut.request, self.dut.response
        while True:
            ctx.set(request.ready, self.bench.go())
            *_, valid, ready, payload = await ctx.tick().sample(request.valid, request.ready, request.payload)
            if valid and ready:
                ctx.set(request.ready, 0)
                if payload.write:
                    self.units[payload.addr] = payload.data
                else:
                    await self.bench.send(ctx, response, self.units.get(payload.addr, 0))

    def begin_write(self, offset: int, value: int, strobe: int = FULL) -> None:
        self.ready["aw"].append(("aw", {"addr": offset}))
        self.ready["w"].append(("w", {"data": value, "strb": strobe}))

    def begin_read(self, offset: int) -> None:
        self.ready["ar"].append(("ar", {"addr": offset}))

    async def write(self, ctx: Context, offset: int, value: int, strobe: int = FULL) -> int:
        self.begin_write(offset, value, strobe)
        return (await self.answer(ctx, "b"))[0]

    async def read(self, ctx: Context, offset: int) -> tuple[int, int]:
        self.begin_read(offset)
        return await self.answer(ctx, "r")

    async def answer(self, ctx: Context, channel: str) -> tuple[int, int]:
        while not self.answers[channel]:
            await ctx.tick()
        return self.answers[channel].pop(0)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_registers_lie_in_the_window_and_memories_behind_it(stall: float) -> None:
    master = Master(1, stall)

    async def test(ctx: Context) -> None:
        assert await master.write(ctx, 4 * 5, 1234) == OKAY
        assert master.units == {address(Region.CSR, 5): 1234}
        assert await master.read(ctx, 4 * 5 + 2) == (OKAY, 1234), "the lowest two bits do not count"
        first = address(Region.ACT, 70)
        assert await master.write(ctx, AXI_ADDRESS, first) == OKAY
        values = [master.bench.random.getrandbits(32) for _ in range(9)]
        for value in values:
            assert await master.write(ctx, AXI_DATA, value) == OKAY
        assert [master.units[first + index] for index in range(9)] == values
        assert await master.read(ctx, AXI_ADDRESS) == (OKAY, first + 9)
        assert await master.write(ctx, AXI_ADDRESS, first) == OKAY
        assert [await master.read(ctx, AXI_DATA) for _ in range(9)] == [(OKAY, value) for value in values]

    master.bench.run(test)


def test_what_is_not_there_and_half_words_are_errors_and_change_nothing() -> None:
    master = Master(2, 0.3)

    async def test(ctx: Context) -> None:
        await master.write(ctx, AXI_ADDRESS, 99)
        for strobe in (0, 0b0001, 0b0111, 0b1110):
            for offset in (8, AXI_ADDRESS, AXI_DATA):
                assert await master.write(ctx, offset, 5, strobe) == SLAVE_ERROR
        for offset in (AXI_DATA + 4, AXI_BYTES - 4):
            assert await master.write(ctx, offset, 5) == SLAVE_ERROR
            assert await master.read(ctx, offset) == (SLAVE_ERROR, 0)
        assert master.units == {}
        assert await master.read(ctx, AXI_ADDRESS) == (OKAY, 99)

    master.bench.run(test)


@pytest.mark.parametrize("seed", range(2))
def test_reads_and_writes_at_the_same_time(seed: int) -> None:
    master = Master(seed, 0.4)
    draw = random.Random(seed)
    low = AXI_CSR_BYTES // 8
    readable = {4 * unit: draw.getrandbits(32) for unit in range(low)}
    master.units = {address(Region.CSR, offset // 4): value for offset, value in readable.items()}
    reads = [draw.choice(list(readable)) for _ in range(30)]
    writes = [(4 * draw.randrange(low, AXI_CSR_BYTES // 4), draw.getrandbits(32)) for _ in range(30)]

    async def test(ctx: Context) -> None:
        for offset in reads:
            master.begin_read(offset)
        for offset, value in writes:
            master.begin_write(offset, value)
        while len(master.answers["r"]) < len(reads) or len(master.answers["b"]) < len(writes):
            await ctx.tick()
        assert master.answers["r"] == [(OKAY, readable[offset]) for offset in reads]
        for offset, value in dict(writes).items():
            assert master.units[address(Region.CSR, offset // 4)] == value

    master.bench.run(test)


@pytest.mark.parametrize("half", ["aw", "w"])
def test_half_a_write_does_not_hold_up_reads(half: str) -> None:
    master = Master(6, 0.2)
    other = {"aw": "w", "w": "aw"}[half]

    async def test(ctx: Context) -> None:
        master.begin_write(4, 77)
        held = master.ready[other].pop()
        await master.bench.wait(ctx, 20)
        assert await master.read(ctx, 8) == (OKAY, 0)
        assert master.units == {}
        master.ready[other].append(held)
        assert (await master.answer(ctx, "b"))[0] == OKAY
        assert master.units == {address(Region.CSR, 1): 77}

    master.bench.run(test)


def test_neither_side_starves() -> None:
    master = Master(5, 0.0)

    async def test(ctx: Context) -> None:
        for _ in range(40):
            master.begin_read(0)
            master.begin_write(4, 1)
        await master.bench.wait(ctx, 200)
        done = [len(answers) for answers in master.answers.values()]
        assert min(done) > 5
        assert abs(done[0] - done[1]) <= 1

    master.bench.run(test)
