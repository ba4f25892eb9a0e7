"""Dot products of two resident rows with streamed words: one multiplier for two products."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from hwattn.rtl.adder_tree import adder_tree
from hwattn.rtl.dot_product import dot_ports, resident_row
from hwattn.spec.config import AcceleratorConfig

FIELD_BITS = 18
"""Of the low product; the high one lies above."""

GROUP = 4
"""Products that are added before the fields are split. The low field, uint8 x int8, then lies between 4 * 255 * -128 = -130,560 and
4 * 255 * 127 = 129,540, which 18 bits, signed, hold; a fifth product would not fit."""

BIAS_BITS = 7
"""An int8 is the uint8 with its top bit inverted, less 2^7."""


def bias_shape(config: AcceleratorConfig) -> Any:
    """Shape of the sum of a word's int8 bytes."""
    return signed(8 + ceil_log2(config.lanes))


class StreamSum(Component):
    """The sum of the bytes of each streamed word, which every :class:`DotProductPair` needs.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    resident_unsigned, streamed : In(1), In(8 * lanes)
    total : Out(bias_shape(config))
        0 for a word that meets uint8.

    Latency
    -------
    ``tree_stages(lanes)`` cycles; one word per cycle.

    Bit accuracy
    ------------
    Exact.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "resident_unsigned": In(1),
                "streamed": In(8 * config.lanes),
                "total": Out(bias_shape(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms = [
            (self.streamed.word_select(lane, 8) & (~self.resident_unsigned).replicate(8)).as_signed()
            for lane in range(self.config.lanes)
        ]
        m.d.comb += self.total.eq(adder_tree(m, terms, "sum"))
        return m


class DotProductPair(Component):
    """Dot products of two resident rows with streamed words.

    The rows' bytes meet the same streamed byte b, so that they can be the fields of one operand: (a0 * 2^18 + a1) * b = a0 * b * 2^18 +
    a1 * b, one product of 27 x 8 bits, signed. The low field is always uint8 (a1 + 128 of an int8 a1): packing is wiring, and what that
    adds to the dot product, 128 times the sum of the streamed bytes, is the same for all pairs.

    Products are added packed, `GROUP` of them, before the fields are split. A negative low field has borrowed 1 from the high field, and
    its sign, the bit below the high field, says so: the high sums carry that bit along as half a unit, and the adders that are there
    anyway make units of it as their carries.

    Look-up tables of logic for a pair of 16 lanes (Yosys 0.70, ``synth_xilinx -family xcup``; 16 DSP48E2 each): 604 as it is here; 709 with
    fields that are split after each product (`GROUP` = 1); 641 with the borrow added to each group; 713 with an adder that packs int8
    fields. Two :class:`DotProduct` take 772, and 32 DSP48E2. Adding packed products also leaves the multipliers alone: Yosys does not
    use the adders inside DSP48E2, and chaining them would take a cycle for each.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    Those of ``dot_ports`` for two rows, row 0 in the high field, and

    bias : In(bias_shape(config))
        `total` of a :class:`StreamSum` beside this.

    Latency
    -------
    `dot` comes ``1 + tree_stages(lanes)`` cycles after `streamed`, ``3 + tree_stages(lanes)`` after `fetch`. One word per cycle.

    Bit accuracy
    ------------
    ``hwattn.sim.model.matrix.matrix_product`` of one word.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__({**dot_ports(config, 2), "bias": In(bias_shape(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        high, low = (resident_row(m, self, self.config, row) for row in range(2))
        is_signed = ~self.resident_unsigned
        products = []
        for lane in range(self.config.lanes):
            product = Signal(signed(2 * FIELD_BITS), name=f"product_{lane}")
            a0, a1 = high.word_select(lane, 8), low.word_select(lane, 8)
            field = Cat(a1[:7], a1[7] ^ is_signed, Const(0, FIELD_BITS - 8))
            operand = Cat(field, a0, a0[7] & is_signed).as_signed()
            m.d.sync += product.eq(operand * self.streamed.word_select(lane, 8).as_signed())
            products.append(product)

        lows, highs = [], []
        for index in range(0, len(products), GROUP):
            group = Signal(signed(2 * FIELD_BITS), name=f"group_{index // GROUP}")
            m.d.comb += group.eq(sum(products[index : index + GROUP]))
            lows.append(group[:FIELD_BITS].as_signed())
            highs.append(group[FIELD_BITS - 1 :].as_signed())
        level = ceil_log2(GROUP)
        bias = Cat(Const(0, BIAS_BITS), self.bias).as_signed()
        m.d.comb += [
            self.dot[0].eq(adder_tree(m, highs, "high", level=level, join=_join_halves, finish=_round_half)),
            self.dot[1].eq(adder_tree(m, lows, "low", level=level, finish=lambda total: total - bias)),
        ]
        return m


def _join_halves(left: Any, right: Any) -> Any:
    """Add two numbers of half units, whose lowest bits stand for 0 or 1 unit: the left one's becomes a carry, the right one's stays."""
    return Cat(right[0], (left + (right | 1))[1:]).as_signed()


def _round_half(total: Any) -> Any:
    """Make a number of half units, whose lowest bit stands for 0 or 1 unit, a number of units."""
    return (total + 1) >> 1
