"""The units at the port to external memory against the integer model, with random stalls on every channel, and aborted."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from bench import Bench, Context, lanes_of
from memory_slave import PAGE, Slave

from hwattn.rtl.fetcher import Fetcher
from hwattn.rtl.storer import Storer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_BYTES, ENTRY_REGIONS, unpack_entries
from hwattn.spec.isa import Fetch, Memory, Store
from hwattn.spec.registers import ErrorCause

ENTRIES = 2000


def config(lanes: int) -> AcceleratorConfig:
    return AcceleratorConfig(
        lanes=lanes, act_banks=2, act_words=512, weight_words=900, external_words=1 << 14, norm_lanes=1
    )


def always_ready(bench: Bench, port: Any, words: np.ndarray) -> None:
    """Apply writes to a memory that takes one in every cycle."""

    async def apply(ctx: Context) -> None:
        ctx.set(port.ready, 1)
        while True:
            *_, valid, write = await ctx.tick().sample(port.valid, port.payload)
            if valid:
                words[write.addr] = lanes_of(write.data, words.shape[1])

    bench.background(apply)


def entries_taken(bench: Bench, dut: Fetcher, memories: dict[Memory, np.ndarray]) -> None:
    """Apply writes of entries."""

    async def apply(ctx: Context) -> None:
        while True:
            *_, param, entry, norm, value = await ctx.tick().sample(
                dut.param_write.valid, dut.param_write.payload, dut.norm_write.valid, dut.norm_write.payload
            )
            if param:
                found = entry.data
                memories[Memory.PARAM][entry.addr] = found.bias, found.multiplier, found.shift
            if norm:
                memories[Memory.NORM][value.addr] = value.data - (value.data >> 47 << 48)

    bench.background(apply)


def fetches(rng: random.Random, limits: dict[int, int], lanes: int) -> list[tuple[Fetch, int]]:
    """Commands of all shapes, with an expert each."""
    made = []
    for number in range(18):
        memory = rng.choice(list(Memory))
        words, runs = rng.choice([(1, 1), (300, 1), (7, 5), (1, 9), (40, 3), (64, 2)])
        whole = 1
        if memory in ENTRY_REGIONS:
            # whole entries, of which a run fills a number
            words, runs = rng.choice([(1, 1), (7, 3), (20, 2)])
            whole = max(1, ENTRY_BYTES // lanes)
        size = words if memory not in ENTRY_REGIONS else words * whole * lanes // ENTRY_BYTES
        stride = size + rng.randrange(5)
        target = rng.randrange(limits[memory] - runs * stride)
        fetch = Fetch(
            memory=memory,
            source=rng.randrange(4000 // whole) * whole,
            expert_stride=rng.choice((0, 811)) * whole,
            target=target,
            words=words * whole,
            runs=runs,
            source_stride=rng.randrange(600 // whole) * whole,
            target_stride=stride,
        )
        made.append((fetch, number % 4))
    return made


@pytest.mark.parametrize("lanes", [4, 16, 64])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_fetches(lanes: int, stall: float) -> None:
    configuration = config(lanes)
    dut = Fetcher(configuration)
    bench = Bench(dut, seed=lanes, stall=stall)
    rng = np.random.default_rng(lanes)
    words = rng.integers(-128, 128, (configuration.external_words, lanes), np.int8)
    memories = {
        Memory.ACT: np.zeros((configuration.act_total_words, lanes), np.int8),
        Memory.WEIGHT: np.zeros((configuration.weight_words, lanes), np.int8),
        Memory.PARAM: np.zeros((ENTRIES, 3), np.int64),
        Memory.NORM: np.zeros(ENTRIES, np.int64),
    }
    expected = {memory: contents.copy() for memory, contents in memories.items()}
    slave = Slave(bench, dut.axi, words)
    bench.background(slave.take_addresses)
    bench.background(slave.give_words)
    bench.memory(None, memories[Memory.ACT], dut.act_write)

    always_ready(bench, dut.weight_write, memories[Memory.WEIGHT])
    entries_taken(bench, dut, memories)
    limits = {memory: len(contents) for memory, contents in memories.items()}
    commands = fetches(bench.random, limits, lanes)
    for fetch, expert in commands:
        for run in range(fetch.runs):
            source = fetch.source + expert * fetch.expert_stride + run * fetch.source_stride
            target = fetch.target + run * fetch.target_stride
            values = words[source : source + fetch.words]
            if fetch.memory in ENTRY_REGIONS:
                values = unpack_entries(Memory(fetch.memory), values.reshape(-1).view("<u4").reshape(-1, 2))
            expected[Memory(fetch.memory)][target : target + len(values)] = values

    async def issue(ctx: Context) -> None:
        for fetch, expert in commands:
            fields = {
                name: getattr(fetch, name) for name in dut.command.payload.shape().members if name != "expert"
            }
            await bench.send(ctx, dut.command, {**fields, "expert": expert})

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 1000)
        for _ in commands:
            await ctx.tick().until(dut.done)
        await bench.wait(ctx, 4)
        assert not ctx.get(dut.busy)
        assert ctx.get(dut.fault) == ErrorCause.NONE

    bench.background(issue)
    bench.run(test)
    for memory, contents in expected.items():
        np.testing.assert_array_equal(memories[memory], contents)


@pytest.mark.parametrize("lanes", [4, 32])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_stores(lanes: int, stall: float) -> None:
    configuration = config(lanes)
    dut = Storer(configuration)
    bench = Bench(dut, seed=lanes, stall=stall)
    rng = np.random.default_rng(lanes)
    act = rng.integers(-128, 128, (configuration.act_total_words, lanes), np.int8)
    words = np.zeros((configuration.external_words, lanes), np.int8)
    expected = words.copy()
    bench.memory(dut.act, act)
    slave = Slave(bench, dut.axi, words)
    bench.background(slave.take_words)

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 1000)
        for count, runs in [(1, 1), (300, 1), (7, 5), (1, 9), (40, 3)]:
            store = Store(
                source=bench.random.randrange(100),
                target=bench.random.randrange(9000),
                words=count,
                runs=runs,
                source_stride=count + 1,
                target_stride=700,
            )
            for run in range(runs):
                target, source = store.target + run * 700, store.source + run * (count + 1)
                expected[target : target + count] = act[source : source + count]
            await bench.execute(ctx, dut, store)
        assert ctx.get(dut.fault) == ErrorCause.NONE

    bench.run(test)
    np.testing.assert_array_equal(words, expected)


@pytest.mark.parametrize("bad_after", [0, 3, 20])
def test_an_error_is_reported_and_the_rest_is_thrown_away(bad_after: int) -> None:
    configuration = config(8)
    dut = Fetcher(configuration)
    bench = Bench(dut, seed=bad_after, stall=0.3)
    words = np.random.default_rng(1).integers(-128, 128, (configuration.external_words, 8), np.int8)
    act = np.zeros((configuration.act_total_words, 8), np.int8)
    slave = Slave(bench, dut.axi, words)
    slave.bad_after = bad_after
    bench.background(slave.take_addresses)
    bench.background(slave.give_words)
    always_ready(bench, dut.act_write, act)  # a write that waits is taken back by an abort
    fetch = Fetch(
        memory=Memory.ACT, source=5, target=7, words=100, runs=2, source_stride=1000, target_stride=100
    )

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 1000)
        await bench.start(ctx, dut, fetch)
        await ctx.tick().until(dut.fault == ErrorCause.BUS_READ)
        ctx.set(dut.abort, 1)
        await ctx.tick()
        ctx.set(dut.abort, 0)
        slave.bad_after = -1
        before = act.copy()
        # taken only when all that was owed has come and nothing of it was written
        await bench.start(ctx, dut, Fetch(memory=Memory.ACT, source=50, target=300, words=4, runs=1))
        np.testing.assert_array_equal(act[:300], before[:300])
        await ctx.tick().until(dut.done)
        await bench.wait(ctx, 2)
        np.testing.assert_array_equal(act[300:304], words[50:54])
        assert not act[304:].any()

    bench.run(test)


def test_silence_is_a_fault_that_lasts() -> None:
    dut = Fetcher(config(8))
    bench = Bench(dut, seed=1, stall=0.0)

    async def test(ctx: Context) -> None:
        ctx.set(dut.limit, 50)
        await bench.start(ctx, dut, Fetch(memory=Memory.ACT, words=4, runs=1))
        await bench.wait(ctx, 40)
        assert ctx.get(dut.fault) == ErrorCause.NONE
        await bench.wait(ctx, 40)
        assert ctx.get(dut.fault) == ErrorCause.BUS_TIMEOUT
        ctx.set(dut.abort, 1)
        await ctx.tick()
        ctx.set(dut.abort, 0)
        await bench.wait(ctx, 5)
        assert ctx.get(dut.fault) == ErrorCause.BUS_TIMEOUT
        assert not ctx.get(dut.command.ready)

    bench.run(test)


def test_a_write_that_fails_is_a_fault() -> None:
    configuration = config(8)
    dut = Storer(configuration)
    bench = Bench(dut, seed=2, stall=0.2)
    bench.memory(dut.act, np.zeros((configuration.act_total_words, 8), np.int8))
    slave = Slave(bench, dut.axi, np.zeros((configuration.external_words, 8), np.int8))
    slave.bad_after = 0
    bench.background(slave.take_words)

    async def test(ctx: Context) -> None:
        ctx.set(dut.page, PAGE)
        ctx.set(dut.limit, 1000)
        await bench.start(ctx, dut, Store(words=30, runs=1))
        await ctx.tick().until(dut.fault == ErrorCause.BUS_WRITE)

    bench.run(test)
