from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from bench import Bench, Context, lanes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.rtl.softmax import Softmax
from hwattn.rtl.softmax_state import SoftmaxState
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.model.softmax import bytes8, high_low, softmax_block, visible_keys
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.numbers import Int64


@dataclass
class Expected:
    """State and resident slots of the integer model."""

    config: AcceleratorConfig
    maximum: Int64 = field(init=False)
    total: Int64 = field(init=False)
    growth: Int64 = field(init=False)
    slots: Any = field(init=False)

    def __post_init__(self) -> None:
        shape = (isa.SOFTMAX_STATES, self.config.rows)
        self.maximum, self.total, self.growth = (np.zeros(shape, np.int64) for _ in range(3))
        words = self.config.row_words * self.config.lanes
        self.slots = np.zeros((8, self.config.rows, words), np.uint8)

    def run(self, acc: Int64, command: isa.Softmax) -> None:
        rows = slice(0, command.rows)
        columns = slice(command.acc_base, command.acc_base + command.keys)
        visible = visible_keys(
            command.rows,
            command.keys,
            command.mask_low,
            command.mask_high,
            command.slope_low,
            command.slope_high,
        )
        block = softmax_block(
            acc[columns, rows].T,
            command.multiplier,
            command.shift,
            self.maximum[command.state, rows],
            self.total[command.state, rows],
            bool(command.first),
            visible,
        )
        self.maximum[command.state, rows] = block.maximum
        self.total[command.state, rows] = block.total
        self.growth[command.state, rows] = block.growth
        padded = -(-command.keys // self.config.lanes) * self.config.lanes
        parts = high_low(block.p16) if command.p16 else (bytes8(block.p16),)
        for slot, part in enumerate(parts, command.slot):
            self.slots[slot, rows, :padded] = 0
            self.slots[slot, rows, : command.keys] = part


def make(rows: int, lanes: int, softmax_lanes: int) -> AcceleratorConfig:
    return AcceleratorConfig(
        rows=rows,
        lanes=lanes,
        softmax_lanes=softmax_lanes,
        post_lanes=1,
        acc_columns=32,
        row_words=8,
        norm_lanes=1,
    )


def check(
    config: AcceleratorConfig, acc: Int64, commands: list[isa.Softmax], seed: int = 0, reset: bool = False
) -> None:
    dut = Softmax(config)
    bench = Bench(dut, seed)
    bench.accumulators(dut.acc, acc)
    bench.stall = 0.0  # the resident rows are always ready
    writes = bench.collect(dut.resident)
    expected = Expected(config)
    slots = np.zeros_like(expected.slots)

    async def test(ctx: Context) -> None:
        if reset:
            for cycles in (1, 5, 9, 13, 20, 31):
                await bench.start(ctx, dut, commands[0])
                await bench.wait(ctx, cycles)
                await bench.reset(ctx)
                assert not ctx.get(dut.busy)
            writes.clear()
        for command in commands:
            await bench.wait(ctx, bench.random.choice([0, 0, 1, 3]))
            await bench.execute(ctx, dut, command)
            expected.run(acc, command)
            while writes:
                write = writes.pop(0)
                place = slice(write["word"] * config.lanes, (write["word"] + 1) * config.lanes)
                slots[write["slot"], write["row"], place] = lanes_of(write["data"], config.lanes).view(
                    np.uint8
                )
            np.testing.assert_array_equal(slots, expected.slots)
            for row in range(config.rows):
                ctx.set(dut.sums.state, command.state)
                ctx.set(dut.sums.row, row)
                ctx.set(dut.growth.state, command.state)
                if reset and row >= command.rows:
                    continue  # memories keep what a command before the reset has left
                assert ctx.get(dut.sums.total) == expected.total[command.state, row]
                assert ctx.get(dut.growth.growth[row]) == expected.growth[command.state, row]

    bench.run(test)


SHAPES = [(1, 4, 1), (3, 4, 1), (3, 4, 2), (3, 8, 3), (4, 8, 2), (4, 4, 3), (5, 8, 2), (5, 4, 1), (5, 4, 3)]


def block(config: AcceleratorConfig, rng: np.random.Generator, **changes: Any) -> isa.Softmax:
    keys = int(rng.integers(1, config.acc_columns + 1))
    fields: dict[str, Any] = {
        "acc_base": int(rng.integers(0, config.acc_columns - keys + 1)),
        "keys": keys,
        "rows": int(rng.integers(1, config.rows + 1)),
        "slot": int(rng.integers(0, 7)),
        "p16": int(rng.integers(0, 2)),
        "multiplier": int(rng.integers(1 << 15, 1 << 16)),
        "shift": int(rng.integers(20, 24)),
        "state": int(rng.integers(0, 4)),
        "first": 1,
        "mask_low": 0,
        "mask_high": keys,
    }
    return isa.Softmax(**(fields | changes))


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_of_random_shape_and_growing_maxima(shape: tuple[int, int, int]) -> None:
    config = make(*shape)
    rng = np.random.default_rng(sum(shape))
    acc = rng.integers(-(2**17), 2**17, (config.acc_columns, config.rows))
    commands = []
    for _ in range(3):
        # smaller shifts block after block: the maxima grow
        state, rows = int(rng.integers(0, 4)), int(rng.integers(1, config.rows + 1))
        commands += [
            block(config, rng, state=state, rows=rows, first=int(shift == 23), shift=shift)
            for shift in (23, 21, 20, 22)
        ]
    check(config, acc, commands)


@pytest.mark.parametrize("shape", [(1, 4, 1), (4, 8, 2), (5, 4, 2)])
@pytest.mark.parametrize("p16", [0, 1])
def test_rows_that_are_equal_one_hot_or_saturated(shape: tuple[int, int, int], p16: int) -> None:
    config = make(*shape)
    rng = np.random.default_rng(0)
    equal = np.full((config.acc_columns, config.rows), 12345)
    one_hot = np.where(np.arange(config.acc_columns)[:, None] % 7 == np.arange(config.rows), 2**20, -(2**20))
    extreme = rng.choice([2**31 - 1, -(2**31)], (config.acc_columns, config.rows))
    for acc in (equal, one_hot, extreme):
        commands = [
            block(
                config,
                rng,
                acc_base=0,
                keys=keys,
                rows=config.rows,
                state=1,
                p16=p16,
                mask_high=keys,
                first=first,
            )
            for keys, first in ((17, 1), (1, 0), (config.lanes, 0), (32, 1), (1, 1))
        ]
        check(config, acc, commands)


@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 8, 2), (5, 8, 3)])
def test_masks_with_slopes_and_rows_that_see_nothing(shape: tuple[int, int, int]) -> None:
    config = make(*shape)
    rng = np.random.default_rng(1)
    acc = rng.integers(-(2**17), 2**17, (config.acc_columns, config.rows))
    commands = [
        block(
            config, rng, state=state, first=first, keys=keys, acc_base=0, rows=config.rows,
            mask_low=low, mask_high=high, slope_low=slope_low, slope_high=slope_high,
        )
        for state, first, keys, low, high, slope_low, slope_high in [
            (0, 1, 9, 0, 1, 0, 1),  # causal
            (0, 0, 9, -3, 3, 1, 1),  # window
            (0, 0, 5, 5, 9, 0, 0),  # nothing
            (1, 1, 5, 0, 0, 0, 0),  # nothing at all: the sum is zero
            (1, 0, 5, 0, 0, 0, 0),
            (1, 0, 8, 2, -1, 0, 1),
            (2, 1, 12, -65536, 65535, 0, 0),
            (2, 0, 12, 65535, 65535, 1, 1),
            (3, 1, 6, 4, 40, 1, 0),
        ]
    ]  # fmt: skip
    check(config, acc, commands)


def test_sum_saturates() -> None:
    # 2**32 / 65535 keys would take too long: the sum starts just below its limit
    state = SoftmaxState(make(2, 4, 1))
    bench = Bench(state)

    async def test(ctx: Context) -> None:
        ctx.set(state.totals[0].data[0], 2**32 - 65536)
        ctx.set(state.add_rows, 1)
        ctx.set(state.add_valid, 1)
        for addend, total in [(65534, 2**32 - 2), (1, 2**32 - 1), (1, 2**32 - 1), (65535, 2**32 - 1)]:
            ctx.set(state.addends[0], addend)
            await ctx.tick()
            assert ctx.get(state.sums.total) == total

    bench.run(test)


@pytest.mark.parametrize("shape", [(3, 4, 1), (4, 8, 2)])
def test_reset_in_the_middle(shape: tuple[int, int, int]) -> None:
    config = make(*shape)
    rng = np.random.default_rng(2)
    acc = rng.integers(-(2**17), 2**17, (config.acc_columns, config.rows))
    check(config, acc, [block(config, rng, keys=9, mask_high=9, acc_base=0) for _ in range(2)], reset=True)


@settings(deadline=None, max_examples=8)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1))
def test_any_sequence_of_blocks(shape: tuple[int, int, int], seed: int) -> None:
    config = make(*shape)
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**18), 2**18, (config.acc_columns, config.rows))
    commands = []
    for number in range(8):
        keys = int(rng.integers(1, 14))
        commands.append(
            block(
                config,
                rng,
                keys=keys,
                acc_base=0,
                state=0,
                first=int(number == 0 or rng.integers(0, 4) == 0),
                rows=int(rng.integers(1, config.rows + 1)) if number else config.rows,
                shift=int(rng.integers(15, 26)),
                mask_low=int(rng.integers(-4, 5)),
                mask_high=int(rng.integers(-4, 18)),
                slope_low=int(rng.integers(0, 2)),
                slope_high=int(rng.integers(0, 2)),
            )
        )
    check(config, acc, commands, seed % 1000)


def test_verilog() -> None:
    assert "module softmax" in to_verilog(Softmax(AcceleratorConfig()), "softmax")
