"""Activation and weight memory: every read is the latest write, priorities, conflicts."""

import numpy as np
import pytest
from bench import Bench, lanes_of, word_of

from hwattn.rtl.memory import BankedMemory, WordMemory, word_contents
from hwattn.spec.config import AcceleratorConfig

CONFIG = AcceleratorConfig(lanes=4, act_banks=4, act_words=16)


def watch_reads(bench: Bench, port: object, memory: np.ndarray, count: list[int]) -> None:
    """Check data and valid exactly one cycle after each handshake, against a copy of the memory at that time."""

    async def process(ctx):
        expected = None
        while True:
            *_, valid, ready, address, data, data_valid = await ctx.tick().sample(
                port.request.valid, port.request.ready, port.request.payload, port.data, port.valid
            )
            assert data_valid == (expected is not None)
            if expected is not None:
                assert data == expected
                count[0] += 1
            expected = word_of(memory[address]) if valid and ready else None

    bench.background(process)


@pytest.mark.parametrize("address", [0, 21, 42, 63])
def test_a_word_is_read_in_the_second_cycle_after_its_write(address: int) -> None:
    dut = BankedMemory(CONFIG, readers=1, writers=1)

    async def test(ctx):
        for data in (0x12345678, 0x9ABCDEF0):
            ctx.set(dut.writes[0].payload, {"addr": address, "data": data, "mask": 0b1111})
            ctx.set(dut.writes[0].valid, 1)
            await ctx.tick()
            ctx.set(dut.writes[0].valid, 0)
            await ctx.tick()
            ctx.set(dut.reads[0].request.payload, address)
            ctx.set(dut.reads[0].request.valid, 1)
            await ctx.tick()
            ctx.set(dut.reads[0].request.valid, 0)
            assert (ctx.get(dut.reads[0].valid), ctx.get(dut.reads[0].data)) == (1, data)

    Bench(dut).run(test)


@pytest.mark.parametrize("later", [0, 1])
def test_a_word_that_is_read_before_it_is_written_is_an_error(later: int) -> None:
    dut = BankedMemory(CONFIG, readers=1, writers=1)

    async def test(ctx):
        ctx.set(dut.writes[0].payload, {"addr": 5, "data": 1, "mask": 0b0001})
        ctx.set(dut.writes[0].valid, 1)
        for _ in range(later):
            await ctx.tick()
            ctx.set(dut.writes[0].valid, 0)
        ctx.set(dut.reads[0].request.payload, 5)
        ctx.set(dut.reads[0].request.valid, 1)
        await ctx.tick()
        await ctx.tick()

    with pytest.raises(AssertionError, match="a word of block RAM is read while it is written"):
        Bench(dut).run(test)


def test_banked_reads_and_writes() -> None:
    dut = BankedMemory(CONFIG, readers=3, writers=2)
    bench = Bench(dut, seed=3, stall=0.2)
    words = np.zeros((64, 4), np.uint8)
    reads, written = [0], [0]
    rng = bench.random

    # no word is read in the cycle that writes it: readers and writers are in halves of each bank, which they change in between
    def half(address: int, which: int) -> int:
        return (address & 0b110111) | which << 3

    asked: list[list[int]] = [[] for _ in dut.reads]
    stored: list[list[dict[str, int]]] = [[] for _ in dut.writes]

    def phase(which: int) -> None:
        for addresses in asked:
            addresses += [half(rng.randrange(64), which) for _ in range(150)]
        for writer, items in enumerate(stored):
            # The two writers own the even and the odd words, so that their order does not matter
            items += [
                {
                    "addr": half(2 * rng.randrange(32) + writer, 1 - which),
                    "data": rng.getrandbits(32),
                    "mask": rng.getrandbits(4),
                }
                for _ in range(100)
            ]

    for port, addresses in zip(dut.reads, asked, strict=True):
        watch_reads(bench, port, words, reads)
        bench.feed(port.request, addresses)
    for port, items in zip(dut.writes, stored, strict=True):
        bench.feed(port, items)

        async def apply(ctx, port=port):
            while True:
                *_, valid, ready, item = await ctx.tick().sample(port.valid, port.ready, port.payload)
                if valid and ready:
                    written[0] += 1
                    lanes = lanes_of(item.data, 4).view(np.uint8)
                    # change it after all samples of this cycle
                    pending.append((item.addr, item.mask, lanes))

        bench.background(apply)

    pending: list[tuple[int, int, np.ndarray]] = []

    async def commit(ctx):
        while True:
            await ctx.tick()
            for address, mask, lanes in pending:
                for lane in range(4):
                    if mask >> lane & 1:
                        words[address, lane] = lanes[lane]
            pending.clear()

    bench.background(commit)

    async def test(ctx):
        for number in (1, 2, 3, 4):
            phase(number % 2)
            while written[0] < 200 * number or reads[0] < 450 * number:
                await ctx.tick()
            # the last word is on its way
            await ctx.tick()

    bench.run(test)
    assert words.reshape(4, 2, 8, 4).any(axis=(2, 3)).all(), "both halves of each bank have been written"


@pytest.mark.parametrize("kind", ["banked", "words"])
def test_who_is_reset_gets_no_word(kind: str) -> None:
    dut = (
        BankedMemory(CONFIG, readers=2, writers=1) if kind == "banked" else WordMemory(CONFIG, 32, readers=2)
    )

    async def test(ctx):
        for abort in (0, 1, 0):
            ctx.set(dut.reads[0].request.valid, 1)
            ctx.set(dut.abort, abort)
            assert ctx.get(dut.reads[0].request.ready), "so that nobody waits for what is reset"
            await ctx.tick()
            assert ctx.get(dut.reads[0].valid) == 1 - abort

    Bench(dut).run(test)


def test_priority_and_conflicts() -> None:
    dut = BankedMemory(CONFIG, readers=3, writers=2)
    bench = Bench(dut)

    async def test(ctx):
        for port, address in zip(dut.reads, (17, 18, 33), strict=True):
            ctx.set(port.request.payload, address)
            ctx.set(port.request.valid, 1)
        assert [ctx.get(port.request.ready) for port in dut.reads] == [1, 0, 1]
        assert ctx.get(dut.read_conflicts) == 0b010
        ctx.set(dut.reads[0].request.valid, 0)
        assert [ctx.get(port.request.ready) for port in dut.reads] == [0, 1, 1]
        assert ctx.get(dut.read_conflicts) == 0
        for port in dut.writes:
            ctx.set(port.payload, {"addr": 18, "data": 1, "mask": 1})
            ctx.set(port.valid, 1)
        assert [ctx.get(port.ready) for port in dut.writes] == [1, 0]
        assert ctx.get(dut.write_conflicts) == 0b10

    bench.run(test)


def test_word_memory_contents_and_host_writes() -> None:
    rng = np.random.default_rng(0)
    init = rng.integers(-128, 128, (20, 4), np.int8)
    dut = WordMemory(CONFIG, depth=24, readers=2, init=init)
    bench = Bench(dut, seed=5, stall=0.4)
    words = np.concatenate([init, np.zeros((4, 4), np.int8)])
    reads = [0]

    for port in dut.reads:
        watch_reads(bench, port, words, reads)

    async def test(ctx):
        for _ in range(10):
            address, mask, value = (
                bench.random.randrange(24),
                bench.random.getrandbits(4),
                bench.random.getrandbits(32),
            )
            await bench.send(ctx, dut.write, {"addr": address, "data": value, "mask": mask})
            for lane in range(4):
                if mask >> lane & 1:
                    words[address, lane] = lanes_of(value, 4)[lane]
        for address in range(24):
            for port in dut.reads:
                await bench.send(ctx, port.request, address)
        ctx.set(dut.reads[0].request.payload, 3)
        ctx.set(dut.reads[0].request.valid, 1)
        ctx.set(dut.reads[1].request.valid, 1)
        assert ctx.get(dut.read_conflicts) == 0b10
        await bench.wait(ctx, 2)

    bench.run(test)
    assert reads[0] >= 48


def test_contents_must_fit() -> None:
    assert word_contents(np.array([[1, 2, 3, -1]], np.int8), depth=1, lanes=4) == [0xFF030201]
    with pytest.raises(ValueError, match=r"contents of shape \(25, 4\) do not fit 24 words of 4 bytes"):
        word_contents(np.zeros((25, 4), np.int8), depth=24, lanes=4)
