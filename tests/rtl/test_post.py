from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bench import Bench, Context, command_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwattn.rtl.post import Post
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.model.post import reciprocal, stage1, stage2_constant, stage2_gate
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Format, Stage2
from hwattn.spec.numbers import Int64, saturate
from hwattn.spec.tables import activation_table

EXPERTS = 3
ENTRIES = 16
TABLE = activation_table("gelu")
SHAPES = [
    (1, 4, 1),
    (3, 4, 1),
    (3, 4, 2),
    (3, 8, 3),
    (4, 8, 1),
    (4, 4, 3),
    (5, 8, 2),
    (5, 4, 1),
    (5, 4, 3),
    (9, 4, 4),
]


class World:
    """Everything around the unit, as the integer model sees it."""

    def __init__(self, config: AcceleratorConfig, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.config = config
        self.rng = rng
        self.memory = rng.integers(-128, 128, (config.act_words, config.lanes)).astype(np.int8)
        spread = np.array([1, 2**10, 2**20, 2**30])
        shape = (2 * config.acc_columns, config.rows)
        self.acc = rng.integers(-1, 2, shape) * rng.choice(spread, shape) + rng.integers(
            -(2**15), 2**15, shape
        )
        count = config.param_words
        self.params = np.stack(
            [
                rng.choice(spread, count) * rng.integers(-1, 2, count),
                rng.integers(2**15, 2**16, count),
                rng.integers(1, 36, count),
            ],
            axis=1,
        )
        self.tokens = np.stack([rng.permutation(ENTRIES) for _ in range(EXPERTS)])
        self.gates = rng.choice([0, 1, 12345, 32767, 32768], (EXPERTS, ENTRIES))
        self.totals = rng.integers(0, 2**32, (isa.SOFTMAX_STATES, config.rows)) >> rng.integers(
            0, 34, (isa.SOFTMAX_STATES, config.rows)
        )

    def values(self, command: dict[str, int]) -> Int64:
        """Return results of shape (rows, columns), before they are narrowed to the format."""
        rows, columns = command["rows"], command["columns"]
        acc = self.acc[command["acc_base"] : command["acc_base"] + columns, :rows].T
        table = TABLE if command["activation"] else None
        if command["row_scale"]:
            multiplier, shift = reciprocal(self.totals[command["state"], :rows], command["m2"], command["s2"])
            v = stage1(acc, 0, multiplier[:, None], shift[:, None], table)
        else:
            base = command["param_base"] + command["expert"] * command["expert_stride"]
            bias, multiplier, shift = self.params[base : base + columns].T
            v = stage1(acc, bias, multiplier, shift, table)
        if command["stage2"] == Stage2.CONSTANT:
            return stage2_constant(v, command["m2"], command["s2"])
        if command["stage2"] == Stage2.GATE:
            entries = slice(command["first"], command["first"] + rows)
            return stage2_gate(v, self.gates[command["expert"], entries][:, None])
        return v

    def run(self, command: dict[str, int], memory: NDArray[np.int8]) -> None:
        """Apply a command to the activation memory."""
        values, lanes = self.values(command), self.config.lanes
        rows, columns = values.shape
        flat = memory.reshape(-1)
        if command["format"] == Format.COLUMNS:
            for column in range(columns):
                start = command["base"] + column * command["stride"] * lanes
                flat[start : start + rows] = saturate(values[:, column], 8)
            return
        groups = -(-columns // lanes)
        padded = np.zeros((rows, groups * lanes), np.int64)
        padded[:, :columns] = values
        for row in range(rows):
            index = self.tokens[command["expert"], command["first"] + row] if command["scatter"] else row
            start = command["base"] + int(index) * command["stride"]
            for group in range(groups):
                part = padded[row, group * lanes : (group + 1) * lanes]
                if command["format"] == Format.INT8:
                    memory[start + group] = saturate(part, 8)
                    continue
                low, high = start + 2 * group, start + 2 * group + 1
                if command["format"] == Format.RESIDUAL:
                    part = (memory[high].astype(np.int64) << 8) + (memory[low].astype(np.int64) & 255) + part
                part = saturate(part, 16)
                memory[low], memory[high] = (part & 255).astype(np.uint8).view(np.int8), part >> 8

    def command(self, **changes: int) -> dict[str, int]:
        """Draw a command that fits the memories; `changes` fix some of its fields."""
        rng, lanes = self.rng, self.config.lanes
        columns = changes.get("columns", int(rng.integers(1, 3 * lanes + 2)))
        rows = changes.get("rows", int(rng.integers(1, self.config.rows + 1)))
        fields = {
            "columns": columns,
            "rows": rows,
            "acc_base": int(rng.integers(0, len(self.acc) - columns + 1)),
            "param_base": int(rng.integers(0, 64)),
            "expert_stride": int(rng.integers(0, 64)),
            "expert": int(rng.integers(0, EXPERTS)),
            "first": int(rng.integers(0, ENTRIES - rows + 1)),
            "format": int(rng.integers(0, 4)),
            "stage2": int(rng.integers(0, 3)),
            "state": int(rng.integers(0, 4)),
            "m2": int(rng.integers(2**15, 2**16)),
            "s2": int(rng.integers(8, 16)),
        } | changes
        groups = -(-columns // lanes)
        if fields["format"] == Format.COLUMNS:
            fields["stride"] = -(-(self.config.rows + lanes) // lanes) + int(rng.integers(0, 2))
            fields["base"] = int(rng.integers(0, 8 * lanes))
        else:
            fields["stride"] = 2 * groups + int(rng.integers(0, 2))
            fields["base"] = int(rng.integers(0, 8))
            fields["scatter"] = changes.get("scatter", int(rng.integers(0, 2)))
        return command_of(isa.Post()) | fields


def check(
    world: World, commands: list[dict[str, int]], stall: float = 0.3, resets: int = 0, load: bool = False
) -> None:
    config = world.config
    dut = Post(config) if load else Post(config, world.params, TABLE)
    bench = Bench(dut, len(commands), stall)
    bench.accumulators(dut.acc, world.acc)
    bench.memory(dut.act_read, world.memory, dut.act_write)
    bench.registered(
        [dut.entry.expert, dut.entry.index],
        [dut.entry.token, dut.entry.gate],
        lambda expert, index: (
            int(world.tokens[expert % EXPERTS, index % ENTRIES]),
            int(world.gates[expert % EXPERTS, index % ENTRIES]),
        ),
    )
    bench.combinational(
        [dut.sums.state, dut.sums.row],
        [dut.sums.total],
        lambda state, row: (int(world.totals[state, min(row, config.rows - 1)]),),
    )

    async def test(ctx: Context) -> None:
        if load:
            for addr, (bias, multiplier, shift) in enumerate(world.params.tolist()):
                entry = {"bias": bias, "multiplier": multiplier, "shift": shift}
                await bench.send(ctx, dut.param_write, {"addr": addr, "data": entry})
            for addr, (value, difference) in enumerate(zip(TABLE.value, TABLE.difference, strict=True)):
                entry = {"value": int(value), "difference": int(difference)}
                await bench.send(ctx, dut.table_write, {"addr": addr, "data": entry})
        for trial in range(resets):
            await bench.start(ctx, dut, world.command())
            await bench.wait(ctx, 3 * trial)
            await bench.reset(ctx)
            assert not ctx.get(dut.busy)
        for command in commands:
            expected = world.memory.copy()
            world.run(command, expected)
            await bench.wait(ctx, bench.random.choice([0, 0, 2]) if stall else 0)
            await bench.execute(ctx, dut, command)
            np.testing.assert_array_equal(world.memory, expected, err_msg=str(command))

    bench.run(test)


def world_of(shape: tuple[int, int, int], seed: int = 0) -> World:
    rows, lanes, post_lanes = shape
    return World(
        AcceleratorConfig(
            rows=rows,
            lanes=lanes,
            post_lanes=post_lanes,
            softmax_lanes=1,
            norm_lanes=1,
            acc_columns=32,
            param_words=256,
        ),
        seed,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_and_second_stage(shape: tuple[int, int, int]) -> None:
    world = world_of(shape)
    check(
        world,
        [world.command(format=format_, stage2=stage2) for format_ in Format for stage2 in [*Stage2] * 2],
    )


@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 8, 1), (5, 8, 3)])
def test_activation(shape: tuple[int, int, int]) -> None:
    world = world_of(shape, 1)
    world.params[:, 2] = world.rng.integers(8, 20, len(world.params))
    commands = [
        world.command(activation=1, stage2=Stage2.CONSTANT, format=format_, s2=s2)
        for format_ in Format
        for s2 in (14, 27)
    ]
    check(world, commands)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_row_scale(shape: tuple[int, int, int]) -> None:
    world = world_of(shape, 2)
    world.totals[0, 0] = 0
    commands: list[dict[str, Any]] = [
        world.command(row_scale=1, stage2=Stage2.NONE, state=state, format=format_, s2=1 + state * 4)
        for state in range(4)
        for format_ in (Format.INT8, Format.COLUMNS)
    ]
    check(world, commands)


@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 8, 1)])
@pytest.mark.parametrize("stall", [0.0, 0.8])
def test_without_stalls_and_with_many(shape: tuple[int, int, int], stall: float) -> None:
    world = world_of(shape, 3)
    check(world, [world.command(format=format_) for format_ in Format for _ in range(2)], stall)


@pytest.mark.parametrize("format_", [Format.COLUMNS, Format.RESIDUAL])
def test_every_byte_offset_and_length(format_: Format) -> None:
    world = world_of((5, 4, 2), 4)
    commands = [
        world.command(columns=columns, rows=rows, format=format_)
        for columns in (1, 4, 5)
        for rows in range(1, 6)
    ]
    if format_ == Format.COLUMNS:
        commands = [command | {"base": offset} for offset, command in enumerate(commands)]
    check(world, commands)


@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 8, 1)])
def test_reset_in_the_middle_and_memories_written_by_the_host(shape: tuple[int, int, int]) -> None:
    world = world_of(shape, 5)
    check(world, [world.command() for _ in range(3)], resets=24, load=True)


def test_rows_that_are_set_up_longer_than_their_columns_take() -> None:
    world = world_of((16, 16, 16), 6)
    quick = world.command(format=Format.COLUMNS, columns=1, rows=16, stage2=Stage2.NONE)
    later = [
        world.command(format=Format.INT8, columns=1, rows=16, stage2=stage2, first=0, scatter=1)
        for stage2 in Stage2
    ]
    check(world, [command for each in later for command in (quick, each)], stall=0.0)


@settings(deadline=None, max_examples=5)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1))
def test_any_sequence_of_commands(shape: tuple[int, int, int], seed: int) -> None:
    world = world_of(shape, seed)
    check(world, [world.command() for _ in range(16)], stall=seed % 7 / 10)


def test_verilog() -> None:
    assert "module post" in to_verilog(Post(AcceleratorConfig()), "post")
