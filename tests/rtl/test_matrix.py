"""The matrix unit against the integer model, under random stalls."""

import re

import numpy as np
import pytest
from bench import Bench, command_of, word_of

from hwattn.rtl.adder_tree import tree_stages
from hwattn.rtl.matrix import Matrix
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.model.matrix import low_pass, matrix_product, rescale
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Matmul

SMALL = {
    "row_words": 5,
    "row_slots": 3,
    "acc_columns": 16,
    "act_banks": 2,
    "act_words": 64,
    "weight_words": 150,
}


class Model:
    """The state of the unit, and what a command does to it."""

    def __init__(self, config: AcceleratorConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.slots = np.zeros((config.row_slots, config.rows, config.row_words, config.lanes), np.int8)
        self.accumulators = np.zeros((2 * config.acc_columns, config.rows), np.int64)
        self.memories = [
            rng.integers(-128, 128, (words, config.lanes), np.int8)
            for words in (config.act_total_words, config.weight_words)
        ]
        self.growth = rng.integers(0, 32, (4, config.rows))
        self.growth[0] = 0
        self.growth[1, 0] = 31

    def matmul(self, command: Matmul, expert: int = 0) -> None:
        resident = self.slots[command.slot, :, : command.words].reshape(self.config.rows, -1)
        resident = resident.view(np.uint8) if command.resident_unsigned else resident
        start = command.base + expert * command.expert_stride
        outer, inner = np.divmod(np.arange(command.n1 * command.n0), command.n0)
        words = start + outer * command.stride1 + inner * command.stride0
        streamed = self.memories[command.memory][words[:, None] + np.arange(command.words)]
        dot = matrix_product(resident, streamed.reshape(len(words), -1))
        dot = low_pass(dot) if command.low_pass else dot
        columns = self.accumulators[command.acc_base : command.acc_base + len(words)].T
        old = rescale(columns, self.growth[command.state]) if command.rescale else columns
        columns[...] = dot + (old if command.accumulate else 0)


def make(
    config: AcceleratorConfig, seed: int, stall: float, style: MultiplierStyle = MultiplierStyle.SINGLE
) -> tuple[Matrix, Bench, Model]:
    dut, model = Matrix(config, style), Model(config, np.random.default_rng(seed))
    bench = Bench(dut, seed, stall)
    bench.memory(dut.act, model.memories[0])
    bench.memory(dut.weight, model.memories[1])
    bench.combinational(
        [dut.growth.state], [dut.growth.growth], lambda state: ([int(each) for each in model.growth[state]],)
    )
    return dut, bench, model


async def fill(ctx, bench: Bench, dut: Matrix, model: Model, slot: int, port: object) -> None:
    """Write random words into a slot through one of the two ports."""
    config = model.config
    for row in range(config.rows):
        for word in range(config.row_words):
            lanes = [
                bench.random.choice((-128, 127, bench.random.randint(-128, 127))) for _ in range(config.lanes)
            ]
            model.slots[slot, row, word] = lanes
            await bench.send(ctx, port, {"slot": slot, "row": row, "word": word, "data": word_of(lanes)})


async def check(ctx, dut: Matrix, model: Model) -> None:
    """Read all accumulators, each column through another port."""
    ports = (dut.acc_post, dut.acc_softmax, dut.acc_route)
    for column, expected in enumerate(model.accumulators):
        port = ports[column % 3]
        ctx.set(port.enable, 1)
        ctx.set(port.addr, column)
        await ctx.tick()
        ctx.set(port.enable, 0)
        assert [ctx.get(port.data[row]) for row in range(model.config.rows)] == expected.tolist(), (
            f"column {column}"
        )


@pytest.mark.parametrize(("rows", "lanes"), [(1, 4), (3, 4), (4, 8), (5, 8), (2, 32)])
@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("style", MultiplierStyle)
def test_random_commands(rows: int, lanes: int, stall: float, style: MultiplierStyle) -> None:
    config = AcceleratorConfig(rows=rows, lanes=lanes, softmax_lanes=1, **SMALL)
    dut, bench, model = make(config, rows + lanes, stall, style)
    rng = bench.random

    async def test(ctx):
        for slot in range(config.row_slots):
            await fill(ctx, bench, dut, model, slot, (dut.load_write, dut.softmax_write)[slot % 2])
        for number in range(14):
            words = rng.randint(1, config.row_words)
            n0, n1 = rng.choice([(1, 1), (5, 1), (1, 7), (3, 4), (16, 1), (2, 3)])
            rescale = rng.randint(0, 1)
            expert, memory = (rng.randint(0, 3), 1) if number % 3 == 0 else (0, rng.randint(0, 1))
            command = Matmul(
                slot=rng.randrange(config.row_slots),
                resident_unsigned=rng.randint(0, 1),
                words=words,
                memory=memory,
                base=rng.randint(0, 15),
                expert_stride=rng.randint(0, 4),
                n0=n0,
                stride0=rng.randint(0, 6),
                n1=n1,
                stride1=rng.randint(0, 3),
                acc_base=rng.randint(0, 2 * config.acc_columns - n0 * n1),
                accumulate=rescale or rng.randint(0, 1),
                rescale=rescale,
                low_pass=rng.randint(0, 1),
                state=rng.randrange(4),
            )
            cycles = await bench.execute(ctx, dut, command_of(command, expert))
            model.matmul(command, expert)
            if stall == 0:
                assert cycles == words * n0 * n1 + 7 + tree_stages(lanes)
            if number % 4 == 3:
                await check(ctx, dut, model)
        await check(ctx, dut, model)

    bench.run(test)


@pytest.mark.parametrize("style", MultiplierStyle)
def test_extreme_products(style: MultiplierStyle) -> None:
    config = AcceleratorConfig(rows=2, lanes=8, softmax_lanes=1, **SMALL)
    dut, bench, model = make(config, 0, 0.2, style)
    model.memories[0][:] = -128
    model.memories[0][5:10] = 127

    async def test(ctx):
        for row, value in enumerate((-128, -1)):  # -1 is 255 unsigned
            for word in range(config.row_words):
                model.slots[0, row, word] = value
                fields = {"slot": 0, "row": row, "word": word, "data": word_of([value] * 8)}
                await bench.send(ctx, dut.load_write, fields)
        for unsigned in (0, 1):
            command = Matmul(
                resident_unsigned=unsigned, words=5, n0=2, stride0=5, n1=1, acc_base=2 * unsigned
            )
            await bench.execute(ctx, dut, command)
            model.matmul(command)
        await check(ctx, dut, model)

    bench.run(test)
    assert model.accumulators[2].tolist() == [-128 * 128 * 40, -128 * 255 * 40]


def test_softmax_write_goes_first_and_loads_wait() -> None:
    config = AcceleratorConfig(rows=3, lanes=4, softmax_lanes=1, **SMALL)
    dut, bench, _ = make(config, seed=0, stall=0)

    async def test(ctx):
        ctx.set(dut.load_write.valid, 1)
        assert ctx.get(dut.load_write.ready) == 1
        ctx.set(dut.softmax_write.valid, 1)
        assert (ctx.get(dut.softmax_write.ready), ctx.get(dut.load_write.ready)) == (1, 0)

    bench.run(test)


def test_writes_to_another_slot_while_streaming() -> None:
    config = AcceleratorConfig(rows=3, lanes=4, softmax_lanes=1, **SMALL)
    dut, bench, model = make(config, seed=2, stall=0.2)

    async def test(ctx):
        await fill(ctx, bench, dut, model, 0, dut.load_write)
        command = Matmul(words=5, n0=16, stride0=2, n1=1, memory=1)
        await bench.start(ctx, dut, command)
        await fill(ctx, bench, dut, model, 1, dut.load_write)
        await ctx.tick().until(~dut.busy)
        model.matmul(command)
        second = Matmul(slot=1, words=4, n0=16, stride0=3, n1=1, acc_base=16)
        await bench.execute(ctx, dut, second)
        model.matmul(second)
        await check(ctx, dut, model)

    bench.run(test)


def test_reset_in_the_middle() -> None:
    config = AcceleratorConfig(rows=3, lanes=4, softmax_lanes=1, **SMALL)
    dut, bench, model = make(config, seed=2, stall=0.3)

    async def test(ctx):
        await fill(ctx, bench, dut, model, 0, dut.load_write)
        for cycles in (1, 2, 9, 30):
            await bench.start(ctx, dut, Matmul(words=5, n0=16, stride0=2, n1=1))
            await bench.wait(ctx, cycles)
            await bench.reset(ctx)
            assert not ctx.get(dut.busy)
            assert ctx.get(dut.command.ready)
            await bench.wait(ctx, 12)
            assert not ctx.get(dut.done)
            command = Matmul(words=2, n0=16, stride0=2, n1=2, stride1=1)  # overwrites every column
            await bench.execute(ctx, dut, command)
            model.matmul(command)
            await check(ctx, dut, model)

    bench.run(test)


def test_two_users_of_a_bank_are_caught() -> None:
    config = AcceleratorConfig(rows=1, lanes=4, softmax_lanes=1, **SMALL)
    dut, bench, _ = make(config, seed=0, stall=0)

    async def test(ctx):
        for port, column in ((dut.acc_post, 3), (dut.acc_softmax, 4)):
            ctx.set(port.enable, 1)
            ctx.set(port.addr, column)
        await bench.wait(ctx, 2)

    with pytest.raises(AssertionError, match="accumulator bank with two readers"):
        bench.run(test)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (MultiplierStyle.SINGLE, ["dots", "dots.column_0", "row_0"]),
        # two pairs are one module, and the fifth row has multipliers of its own
        (MultiplierStyle.PACKED, ["dots", "dots.column_0", "dots.column_2", "dots.stream_sum", "row_0"]),
    ],
)
def test_rows_are_one_module(style: MultiplierStyle, expected: list[str]) -> None:
    config = AcceleratorConfig(rows=5, lanes=4, softmax_lanes=1, **SMALL)
    text = to_verilog(Matrix(config, style), "matrix")
    names = re.findall(r"^module \\matrix\.(\S+) \(", text, re.MULTILINE)
    parts = {"resident", "accumulators"}  # memories
    assert sorted(name for name in names if not parts & set(re.split(r"[._]", name))) == expected, names
