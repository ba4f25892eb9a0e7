"""Dot products in both multiplier styles, against the integer model: corner values exhaustively, and random ones."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import Bench, word_of
from numpy.typing import NDArray

from hwattn.rtl.adder_tree import tree_stages
from hwattn.rtl.dot_product_pair import FIELD_BITS, GROUP, DotProductPair
from hwattn.rtl.dot_products import DotProducts
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.verilog import to_verilog
from hwattn.rtl.yosys import yosys_command
from hwattn.sim.model.matrix import matrix_product
from hwattn.spec.config import AcceleratorConfig

Array = NDArray[Any]

CORNERS = (-128, -1, 0, 127)
"""Extremes of int8, and of the same bytes as uint8: 128, 255, 0 and 127."""


def check(rows: int, style: MultiplierStyle, resident: Array, streamed: Array, order: Array) -> None:
    """Stream words past resident ones, one per cycle, as int8 and as uint8 by turns.

    Parameters
    ----------
    resident : ndarray of int8, shape (words, rows, lanes)
    streamed : ndarray of int8, shape (cycles, lanes)
    order : ndarray of int, shape (cycles, 2)
        Resident word that each streamed word meets, and whether it is uint8.
    """
    lanes = streamed.shape[1]
    config = AcceleratorConfig(
        rows=rows, lanes=lanes, softmax_lanes=1, row_words=len(resident) // 2, row_slots=2
    )
    dut = DotProducts(config, style)
    found: list[list[int]] = []

    async def test(ctx: Any) -> None:
        for word, row in itertools.product(range(len(resident)), range(rows)):
            ctx.set(dut.write_enable, 1 << row)
            ctx.set(dut.write_addr, word)
            ctx.set(dut.write_data, word_of(resident[word, row]))
            await ctx.tick()
        ctx.set(dut.write_enable, 0)
        delay = 3 + tree_stages(lanes)
        words = [word_of(lanes) for lanes in streamed]
        for cycle in range(len(words) + delay):
            if cycle < len(words):
                ctx.set(dut.fetch, 1)
                ctx.set(dut.fetch_addr, int(order[cycle, 0]))
            if 2 <= cycle < len(words) + 2:
                ctx.set(dut.streamed, words[cycle - 2])
                ctx.set(dut.resident_unsigned, int(order[cycle - 2, 1]))
            if cycle >= delay:
                found.append([ctx.get(each) for each in dut.dot])
            await ctx.tick()

    Bench(dut).run(test)
    met = resident[order[:, 0]]
    expected = np.where(
        order[:, 1:],
        *(matrix_product(met.view(kind), streamed[:, None])[..., 0] for kind in (np.uint8, np.int8)),
    )
    np.testing.assert_array_equal(np.array(found), expected)


def test_the_low_field_holds_a_group() -> None:
    """The bound that the packed adders rest on: whatever the values, and not one product more."""
    bytes_, streamed = np.arange(256), np.arange(-128, 128)
    products = bytes_[:, None] * streamed
    limit = 1 << (FIELD_BITS - 1)
    assert GROUP * products.min() >= -limit
    assert GROUP * products.max() < limit
    assert (GROUP + 1) * products.min() < -limit


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-1, 0)], ids=["int8", "uint8"])
def test_all_corners_of_a_group(low: int, high: int) -> None:
    """All combinations of the extremes of int8, or of uint8, in four lanes of two rows, with all of -128 and 127, then of -1 and 1."""
    lanes = np.array(list(itertools.product((low, high), repeat=4)), np.int8)
    pairs = np.array(list(itertools.product(range(16), repeat=2)))
    resident = lanes[pairs]  # 256 words, 2 rows, 4 lanes
    streamed = np.array(
        [*itertools.product((-128, 127), repeat=4), *itertools.product((-1, 1), repeat=4)], np.int8
    )
    every = np.array(list(itertools.product(range(256), range(len(streamed)))))
    unsigned = np.arange(len(every)) % 2 ^ every[:, 0] % 2
    for is_unsigned in (unsigned, 1 - unsigned):
        order = np.stack([every[:, 0], is_unsigned], axis=1)
        check(2, MultiplierStyle.PACKED, resident, streamed[every[:, 1]], order)


@pytest.mark.parametrize("style", MultiplierStyle)
@pytest.mark.parametrize(("rows", "lanes"), [(1, 4), (2, 64), (3, 8), (5, 16), (4, 32)])
def test_corners_in_all_lanes_and_random_words(style: MultiplierStyle, rows: int, lanes: int) -> None:
    rng = np.random.default_rng(rows * lanes)
    # words of one corner each, words of corners, and words of anything
    corners = rng.choice(CORNERS, (64, rows, lanes)).astype(np.int8)
    corners[:32] = corners[:32, :, :1]
    resident = np.concatenate([corners, rng.integers(-128, 128, (64, rows, lanes), np.int8)])
    cycles = 600
    streamed = rng.integers(-128, 128, (cycles, lanes), np.int8)
    streamed[::3] = rng.choice(CORNERS, (len(streamed[::3]), 1))
    order = np.stack([rng.integers(0, len(resident), cycles), rng.integers(0, 2, cycles)], axis=1)
    check(rows, style, resident, streamed, order)


def test_a_pair_takes_one_block_for_two_products(tmp_path: Path) -> None:
    """Yosys finds signed multipliers that fit DSP48E2 whole; an unsigned operand of 27 bits would take two blocks."""
    config = AcceleratorConfig(rows=2, lanes=4, softmax_lanes=1, row_words=4)
    (tmp_path / "pair.v").write_text(to_verilog(DotProductPair(config), "pair"))
    script = "read_verilog -formal pair.v\nchformal -remove\nsynth_xilinx -family xcup -top pair -run begin:coarse\ntee -q -o stat.json stat -json\n"
    (tmp_path / "pair.ys").write_text(script)
    subprocess.run(yosys_command("pair.ys"), cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    cells = json.loads((tmp_path / "stat.json").read_text())["design"]["num_cells_by_type"]
    assert cells["DSP48E2"] == config.lanes
    assert "$mul" not in cells


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 1), (5, 3), (43, 22)])
def test_blocks(rows: int, columns: int) -> None:
    config = AcceleratorConfig(rows=rows, lanes=16, softmax_lanes=1)
    assert MultiplierStyle.PACKED.blocks(config) == columns * 16
    assert MultiplierStyle.SINGLE.blocks(config) == config.multipliers
