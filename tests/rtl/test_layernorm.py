"""LayerNorm against the integer model, under random stalls."""

import numpy as np
import pytest
from bench import Bench

from hwattn.rtl.layernorm import LayerNorm
from hwattn.rtl.layernorm_scale import LayerNormScale
from hwattn.sim.model.layernorm import layer_norm, reciprocal_square_root
from hwattn.sim.perf.units import norm_cycles
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Norm
from hwattn.spec.numbers import signed_digits

MEMORY_WORDS = 512


def store_rows(memory: np.ndarray, command: Norm, rows: np.ndarray) -> None:
    """Write int16 rows as words of low and of high bytes in turn; garbage beyond `dim` stays."""
    lanes = memory.shape[1]
    for index, row in enumerate(rows):
        start = command.source + index * command.source_stride
        for feature, value in enumerate(row):
            word, lane = start + 2 * (feature // lanes), feature % lanes
            memory[word, lane] = value & 255
            memory[word + 1, lane] = value >> 8 & 255


def expected(memory: np.ndarray, command: Norm, rows: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Return the memory after a command."""
    memory = memory.copy()
    lanes, groups = memory.shape[1], -(-command.dim // memory.shape[1])
    chosen = params[command.param_base : command.param_base + command.dim]
    gamma = chosen >> 32
    beta = (chosen & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.int64)
    zero_mean = bool(command.zero_mean)
    out8, wide = layer_norm(rows, gamma, beta, command.epsilon, command.shift, zero_mean=zero_mean)
    low, high = signed_digits(wide)
    for index in range(command.rows):
        for values, start in (
            (out8, command.target + index * command.target_stride),
            (low, command.wide_target + index * command.wide_stride),
            (high, command.wide_target + index * command.wide_stride + groups),
        ):
            if values is out8 or command.wide:
                padded = np.zeros(groups * lanes, np.int64)
                padded[: command.dim] = values[index]
                memory[start : start + groups] = (padded & 255).astype(np.uint8).reshape(groups, lanes)
    return memory


def random_params(rng: np.random.Generator, entries: int) -> np.ndarray:
    gamma = rng.integers(-(2**15), 2**15, entries)
    beta = rng.integers(-(2**26), 2**26, entries)
    beta[:3] = (-(2**31), 2**31 - 1, 0)
    return (gamma << 32) | (beta & 0xFFFFFFFF)


class Setup:
    """A unit with memory and parameters, and random commands for it."""

    def __init__(
        self, lanes: int, norm_lanes: int, stall: float, seed: int = 0, norm_words: int = 56
    ) -> None:
        self.config = AcceleratorConfig(lanes=lanes, norm_lanes=norm_lanes, norm_words=norm_words)
        self.rng = np.random.default_rng(seed)
        self.params = random_params(self.rng, 56)
        self.dut = LayerNorm(self.config, self.params)
        self.bench = Bench(self.dut, seed, stall, limit=30_000)
        self.memory = self.rng.integers(0, 256, (MEMORY_WORDS, lanes)).astype(np.uint8)
        self.bench.memory(self.dut.act, self.memory, self.dut.act_write)

    def command(self, dim: int, rows: int, wide: int, zero_mean: int = 0) -> Norm:
        rng, groups = self.rng, -(-dim // self.config.lanes)
        strides = groups + rng.integers(0, 3, 3)
        base = int(rng.integers(0, 56 - dim + 1))
        return Norm(
            source=int(rng.integers(0, 5)),
            source_stride=int(2 * groups + strides[0] - groups),
            rows=rows,
            dim=dim,
            target=200 + int(rng.integers(0, 5)),
            target_stride=int(strides[1]),
            param_base=base,
            epsilon=int(rng.choice([1, 1000, 10**9])),
            shift=int(rng.integers(9, 25)),
            wide=wide,
            wide_target=300,
            wide_stride=int(2 * groups + strides[2] - groups),
            zero_mean=zero_mean,
        )

    def rows(self, command: Norm) -> np.ndarray:
        shape = (command.rows, command.dim)
        kind = self.rng.integers(0, 4)
        if kind == 0:
            return np.full(shape, self.rng.choice([-32768, 0, 5, 32767]), np.int64)
        if kind == 1:
            rows = np.zeros(shape, np.int64)
            rows[:, -1] = 32767
            return rows
        spread = self.rng.choice([3, 300, 32768])
        return self.rng.integers(-spread, spread, shape)


@pytest.mark.parametrize(("lanes", "norm_lanes"), [(4, 1), (8, 2), (8, 8), (4, 2), (16, 4)])
@pytest.mark.parametrize("stall", [0.0, 0.35])
def test_random_commands(lanes: int, norm_lanes: int, stall: float) -> None:
    setup = Setup(lanes, norm_lanes, stall, seed=lanes * norm_lanes)

    async def test(ctx):
        for dim, rows, wide, zero_mean in (
            (1, 1, 0, 0),
            (32, 5, 1, 0),
            (lanes, 4, 1, 1),
            (19, 3, 0, 1),
            (2 * lanes + 1, 4, 1, 0),
            (48, 1, 0, 0),
            (54, 3, 1, 1),
            (7, 2, 0, 0),
        ):
            command = setup.command(dim, rows, wide, zero_mean)
            values = setup.rows(command)
            store_rows(setup.memory, command, values)
            after = expected(setup.memory, command, values, setup.params)
            await setup.bench.execute(ctx, setup.dut, command)
            assert np.array_equal(setup.memory, after), command

    setup.bench.run(test)


def test_parameters_are_written_and_read() -> None:
    for norm_lanes in (1, 4):
        setup = Setup(4, norm_lanes, stall=0.2)
        dut, bench = setup.dut, setup.bench

        async def test(ctx, setup=setup, dut=dut, bench=bench):
            for entry in range(0, 56, 3):
                value = bench.random.getrandbits(48)
                setup.params[entry] = value - (value >> 47 << 48)
                await bench.send(ctx, dut.param_write, {"addr": entry, "data": value})
            for entry in range(56):
                ctx.set(dut.param.addr, entry)
                await ctx.tick()
                assert ctx.get(dut.param.data) == int(setup.params[entry]) & (1 << 48) - 1
            command = setup.command(20, 3, 1)
            values = setup.rows(command)
            store_rows(setup.memory, command, values)
            after = expected(setup.memory, command, values, setup.params)
            await bench.execute(ctx, dut, command)
            assert np.array_equal(setup.memory, after)

        bench.run(test)


def test_scale_over_the_whole_range() -> None:
    dut = LayerNormScale()
    bench = Bench(dut, seed=1, stall=0.2)
    rng = bench.random
    # dim = 1: the variance is squares - total**2 + epsilon
    cases = [(0, 0, 1 << power) for power in range(0, 52, 5)] + [(0, (1 << 42) - 1, (1 << 52) - 1)]
    for _ in range(60):
        squares = rng.getrandbits(rng.randint(1, 42))
        limit = int(squares**0.5)
        cases.append((rng.randint(-limit, limit) // 2, squares, 1 + rng.getrandbits(rng.randint(0, 51))))
    received = bench.collect(dut.scale)

    async def test(ctx):
        for dim in (1, 769, 4096):
            ctx.set(dut.dim, dim)
            for total, squares, epsilon in cases:
                ctx.set(dut.epsilon, epsilon)
                variance = dim * squares - total**2 + epsilon
                if variance >= 1 << 54:
                    continue
                received.clear()
                await bench.send(ctx, dut.sums, {"total": total, "squares": squares})
                while not received:
                    await ctx.tick()
                significand, shift = reciprocal_square_root(np.array(variance))
                assert received == [{"total": total, "significand": significand, "shift": shift}], variance

    bench.run(test)


@pytest.mark.parametrize("zero_mean", [0, 1])
def test_largest_row(zero_mean: int) -> None:
    """4096 extreme values, or 4095 without their mean, need every bit of the sums."""
    config = AcceleratorConfig(lanes=8, norm_lanes=8, norm_words=4096)
    params = np.zeros(4096, np.int64) + (32767 << 32)
    dut = LayerNorm(config, params)
    bench = Bench(dut)
    memory = np.zeros((2048, 8), np.uint8)
    bench.memory(dut.act, memory, dut.act_write)
    dim = 4096 - zero_mean
    rows = np.full((1, dim), -32768, np.int64)
    if not zero_mean:
        rows[0, ::2] = 32767
        rows[0, :100] = -32768
    command = Norm(rows=1, dim=dim, target=1024, epsilon=1, shift=18, zero_mean=zero_mean)
    store_rows(memory, command, rows)
    after = expected(memory, command, rows, params)

    async def test(ctx):
        await bench.execute(ctx, dut, command)

    bench.run(test)
    assert np.array_equal(memory, after)


def test_reset_in_the_middle() -> None:
    setup = Setup(8, 2, stall=0.2)

    async def test(ctx):
        for cycles in (1, 5, 12, 30, 45, 60):
            await setup.bench.start(ctx, setup.dut, setup.command(40, 6, 1))
            await setup.bench.wait(ctx, cycles)
            await setup.bench.reset(ctx)
            assert not ctx.get(setup.dut.busy)
            await setup.bench.wait(ctx, 20)
            command = setup.command(17, 3, 1)
            values = setup.rows(command)
            store_rows(setup.memory, command, values)
            after = expected(setup.memory, command, values, setup.params)
            await setup.bench.execute(ctx, setup.dut, command)
            assert np.array_equal(setup.memory, after)

    setup.bench.run(test)


@pytest.mark.parametrize(("lanes", "norm_lanes"), [(8, 1), (8, 2), (4, 2), (8, 8)])
def test_latency(lanes: int, norm_lanes: int) -> None:
    setup = Setup(lanes, norm_lanes, stall=0, norm_words=256)

    async def test(ctx):
        for dim, rows in ((1, 1), (32, 6), (40, 2), (lanes, 5), (63, 3)):
            wide = lanes // norm_lanes >= 3
            groups = -(-dim // lanes)
            beats = groups * lanes // norm_lanes
            command = Norm(
                rows=rows,
                dim=dim,
                target=300,
                epsilon=1,
                shift=9,
                wide=wide,
                wide_target=400,
                zero_mean=rows % 2,
            )
            cycles = await setup.bench.execute(ctx, setup.dut, command)
            first = 37 + beats + max(beats, 2 * groups - 1) + 2 * wide
            assert cycles == first + (rows - 1) * max(beats, 2 * groups, 15), (dim, rows)

    setup.bench.run(test)


@pytest.mark.parametrize("norm_words", [8, 16, 24, 32])
def test_rows_wait_for_places_in_the_buffer(norm_words: int) -> None:
    """As the cycle model has it."""
    config = AcceleratorConfig(lanes=8, norm_lanes=2, norm_words=norm_words)
    dut = LayerNorm(config, np.zeros(norm_words, np.int64))
    bench = Bench(dut, stall=0)
    bench.memory(dut.act, np.zeros((MEMORY_WORDS, 8), np.uint8), dut.act_write)

    async def test(ctx):
        for dim in (8, norm_words // 2, norm_words):
            for rows in (1, 2, 7):
                command = Norm(rows=rows, dim=dim, target=300, epsilon=1, shift=9)
                assert await bench.execute(ctx, dut, command) == norm_cycles(command, config), (dim, rows)

    bench.run(test)


def test_outside_its_bounds_is_caught() -> None:
    setup = Setup(8, 2, stall=0)

    async def test(ctx):
        await setup.bench.execute(ctx, setup.dut, Norm(rows=1, dim=57, epsilon=1, shift=9))

    with pytest.raises(AssertionError, match="Norm outside its bounds"):
        setup.bench.run(test)
