"""The program reader and the arbiter before it: whole programs in order, from any entry, stopped and started again."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from bench import Bench, Context
from memory_slave import PAGE, Slave

from hwattn.rtl.axi import axi_port
from hwattn.rtl.program_reader import ProgramReader
from hwattn.rtl.read_arbiter import ReadArbiter
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.registers import ErrorCause


def config(lanes: int, program_words: int = 16) -> AcceleratorConfig:
    return AcceleratorConfig(
        lanes=lanes, program_words=program_words, external_words=1 << 12, program_streamed=1, norm_lanes=1
    )


def instruction_of(words: np.ndarray, index: int) -> int:
    return int.from_bytes(words.reshape(-1)[32 * index : 32 * index + 32].tobytes(), "little")


def contents(configuration: AcceleratorConfig) -> np.ndarray:
    rng = np.random.default_rng(configuration.lanes)
    return rng.integers(-128, 128, (configuration.external_words, configuration.lanes), np.int8)


@pytest.mark.parametrize(("lanes", "program_words"), [(4, 4), (16, 37), (32, 16), (64, 16)])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_instructions_in_order_and_again_from_elsewhere(lanes: int, program_words: int, stall: float) -> None:
    configuration = config(lanes, program_words)
    dut = ProgramReader(configuration)
    bench = Bench(dut, seed=lanes, stall=stall, limit=20_000)
    words = contents(configuration)
    slave = Slave(bench, dut.axi, words)
    bench.background(slave.take_addresses)
    bench.background(slave.give_words)

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 1000)
        for entry, count in ((0, 60), (5, 1), (18, 40), (7, 0), (33, 20)):
            ctx.set(dut.pc, entry)
            ctx.set(dut.run, 1)
            for index in range(entry, entry + count):
                while not bench.go():
                    await ctx.tick()
                ctx.set(dut.instruction.ready, 1)
                (found,) = await ctx.tick().sample(dut.instruction.payload).until(dut.instruction.valid)
                ctx.set(dut.instruction.ready, 0)
                assert found == instruction_of(words, index), index
            ctx.set(dut.run, 0)
            await bench.wait(ctx, 1 + bench.random.randrange(30))
        assert ctx.get(dut.fault) == ErrorCause.NONE

    bench.run(test)


@pytest.mark.parametrize("cause", [ErrorCause.BUS_READ, ErrorCause.BUS_TIMEOUT])
def test_an_error_and_silence_are_faults(cause: ErrorCause) -> None:
    configuration = config(8)
    dut = ProgramReader(configuration)
    bench = Bench(dut, seed=1, stall=0.3, limit=5_000)
    slave = Slave(bench, dut.axi, contents(configuration))
    slave.bad_after = 9
    bench.background(slave.take_addresses)
    if cause is ErrorCause.BUS_READ:
        bench.background(slave.give_words)

    async def test(ctx: Context) -> None:
        ctx.set(dut.limit, 200)
        ctx.set(dut.page, PAGE)
        ctx.set(dut.run, 1)
        found = await ctx.tick().sample(dut.fault).until(dut.fault != ErrorCause.NONE)
        assert found == (cause,)

    bench.run(test)


class Two(Component):
    """Two readers behind the arbiter."""

    def __init__(self, configuration: AcceleratorConfig) -> None:
        self.readers = [ProgramReader(configuration) for _ in range(2)]
        self.arbiter = ReadArbiter(configuration)
        super().__init__({"axi": Out(axi_port(configuration)), "go": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules += [self.arbiter, *self.readers]
        connect(m, self.readers[0].axi, self.arbiter.program)
        connect(m, self.readers[1].axi, self.arbiter.fetch)
        connect(m, self.arbiter.axi, flipped(self.axi))
        for number, reader in enumerate(self.readers):
            m.d.comb += [reader.run.eq(self.go), reader.page.eq(PAGE), reader.limit.eq(10_000)]
            m.d.comb += [reader.instruction.ready.eq(1), reader.pc.eq(100 * number)]
        return m


def test_the_arbiter_keeps_clients_apart() -> None:
    configuration = config(8)
    dut = Two(configuration)
    bench = Bench(dut, seed=3, stall=0.4, limit=20_000)
    words = contents(configuration)
    slave = Slave(bench, dut.axi, words)
    bench.background(slave.take_addresses)
    bench.background(slave.give_words)
    found: list[list[int]] = [[], []]

    async def test(ctx: Context) -> None:
        ctx.set(dut.go, 1)
        streams = [reader.instruction for reader in dut.readers]
        while min(map(len, found)) < 50:
            *_, first, one, second, other = await ctx.tick().sample(
                streams[0].valid, streams[0].payload, streams[1].valid, streams[1].payload
            )
            for list_, valid, payload in ((found[0], first, one), (found[1], second, other)):
                if valid:
                    list_.append(payload)

    bench.run(test)
    for number, list_ in enumerate(found):
        expected = [instruction_of(words, 100 * number + index) for index in range(len(list_))]
        assert list_ == expected
