"""UART and serial link: bytes, frames, damage, repeats, silence."""

import random

import pytest
from amaranth.hdl import Module
from bench import Bench, Context

from hwattn.rtl.link import Link
from hwattn.rtl.uart import UartReceiver, UartTransmitter
from hwattn.spec.link import COUNT_MAX, LinkStatus, Operation, answer_bytes, parse_answer, request_frame

SILENCE = 300


@pytest.mark.parametrize("divisor", [4, 5, 16])
def test_uart_carries_bytes(divisor: int) -> None:
    transmitter, receiver = UartTransmitter(divisor), UartReceiver(divisor)

    sent = [0, 255, 0x55, 0xAA, *random.Random(divisor).randbytes(20)]
    top = Module()
    top.submodules.transmitter, top.submodules.receiver = transmitter, receiver
    top.d.comb += receiver.rx.eq(transmitter.tx)
    bench = Bench(top, stall=0.0)
    bench.feed(transmitter.bytes, list(sent))
    received = bench.collect(receiver.bytes)

    async def test(ctx: Context) -> None:
        while len(received) < len(sent):
            await ctx.tick()

    bench.run(test)
    assert received == sent


class Machine:
    """A Link, a memory behind it, and a host that counts what reaches the memory."""

    def __init__(self, seed: int) -> None:
        self.dut = Link(SILENCE)
        self.bench = Bench(self.dut, seed=seed, stall=0.2)
        self.memory: dict[int, int] = {}
        self.writes = 0
        self.reads: list[int] = []
        self.to_send: list[int] = []
        self.answer: list[int] = self.bench.collect(self.dut.sent)
        self.bench.feed(self.dut.received, self.to_send)
        self.bench.background(self.serve)

    async def serve(self, ctx: Context) -> None:
        request, response = self.dut.request, self.dut.response
        while True:
            ctx.set(request.ready, self.bench.go())
            *_, valid, ready, payload = await ctx.tick().sample(request.valid, request.ready, request.payload)
            if not (valid and ready):
                continue
            ctx.set(request.ready, 0)
            if payload.write:
                self.memory[payload.addr] = payload.data
                self.writes += 1
            else:
                await self.bench.send(ctx, response, self.memory.get(payload.addr, 0))

    async def ask(self, ctx: Context, frame: bytes, length: int) -> bytes:
        self.answer.clear()
        self.to_send += frame
        while len(self.answer) < length:
            await ctx.tick()
        return bytes(self.answer)


def test_reads_and_writes() -> None:
    machine = Machine(seed=1)
    generator = random.Random(1)

    async def test(ctx: Context) -> None:
        for sequence, count in enumerate([1, 2, 7, COUNT_MAX]):
            base = generator.getrandbits(30)
            units = [generator.getrandbits(32) for _ in range(count)]
            frame = request_frame(sequence, Operation.WRITE, base, count, units)
            answer = await machine.ask(ctx, frame, answer_bytes(Operation.WRITE, count))
            assert parse_answer(answer) == (sequence, LinkStatus.OK, [])
            assert [machine.memory[base + number] for number in range(count)] == units
            frame = request_frame(sequence, Operation.READ, base, count)
            answer = await machine.ask(ctx, frame, answer_bytes(Operation.READ, count))
            assert parse_answer(answer) == (sequence, LinkStatus.OK, units)

    machine.bench.run(test)


def test_a_repeated_write_is_done_once() -> None:
    machine = Machine(seed=2)

    async def test(ctx: Context) -> None:
        for sequence, done in ((0, 1), (0, 1), (1, 2), (1, 2), (0, 3)):
            frame = request_frame(sequence, Operation.WRITE, 8, 1, [5])
            answer = await machine.ask(ctx, frame, answer_bytes(Operation.WRITE, 1))
            assert parse_answer(answer) == (sequence, LinkStatus.OK, [])
            assert machine.writes == done

    machine.bench.run(test)


@pytest.mark.parametrize("damage", range(2, 16, 3))
def test_a_damaged_write_is_not_done(damage: int) -> None:
    machine = Machine(seed=damage)
    frame = bytearray(request_frame(9, Operation.WRITE, 0x10000004, 1, [0x01020304]))
    frame[damage] ^= 1 << damage % 8

    async def test(ctx: Context) -> None:
        machine.to_send += bytes(frame)
        await machine.bench.wait(ctx, 3 * SILENCE)
        assert machine.writes == 0
        answer = parse_answer(bytes(machine.answer))
        assert answer is None or answer[1] != LinkStatus.OK
        good = request_frame(10, Operation.WRITE, 3, 1, [77])
        assert parse_answer(await machine.ask(ctx, good, answer_bytes(Operation.WRITE, 1))) == (
            10,
            LinkStatus.OK,
            [],
        )
        assert machine.memory == {3: 77}

    machine.bench.run(test)


def test_an_unfinished_frame_is_forgotten() -> None:
    machine = Machine(seed=5)

    async def test(ctx: Context) -> None:
        frame = request_frame(1, Operation.WRITE, 0, 2, [1, 2])
        for length in range(1, len(frame)):
            machine.to_send += frame[:length]
            await machine.bench.wait(ctx, SILENCE + 4 * length + 20)
        assert machine.writes == 0
        assert parse_answer(await machine.ask(ctx, frame, answer_bytes(Operation.WRITE, 2))) == (
            1,
            LinkStatus.OK,
            [],
        )
        assert machine.memory == {0: 1, 1: 2}

    machine.bench.run(test)
