"""One row of the matrix unit: a resident row, `lanes` multipliers and the row's accumulators."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from hwattn.rtl.interfaces import ACCUMULATOR_BITS, GROWTH_BITS
from hwattn.rtl.memory import block_ram
from hwattn.spec.config import AcceleratorConfig

TREE_LEVELS = 3
"""Levels of adders between two registers."""

PRODUCT_BITS = 17


def tree_stages(lanes: int) -> int:
    """Registers of the adder tree over `lanes` products."""
    return -(-int(ceil_log2(lanes)) // TREE_LEVELS)


class MatrixRow(Component):
    """Dot products of one resident row with streamed words, added up in the row's accumulators.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    write_enable, write_addr, write_data : In
        Write of one word of the resident row; the address is (slot, word).
    fetch, fetch_addr : In
        Read of the resident word that goes with the streamed word of the next cycle.
    resident_unsigned, low_pass, accumulate, growth : In
        Settings of the word's command; `growth` is 0 unless accumulators are rescaled.
    streamed : In(8 * lanes)
        The streamed word, two cycles after `fetch`.
    add, first : In(1)
        Add the dot product of a word to the sum; `first` starts the sum.
    read_enable, read_addr, data : In(acc_banks), In.array(acc_banks), Out.array(acc_banks)
        Read of each of the accumulator banks; `data` comes one cycle later.
    old_bank : In
        Bank from which `data` is the old content.
    store, store_addr : In(acc_banks), In
        Write the sum of dot product and old content into a bank.

    Latency
    -------
    With T = ``tree_stages(lanes)``, for a word fetched in cycle 0: `streamed` and `resident_unsigned` in 2, `add` in ``3 + T``, and for
    the last word of a column `read_enable` in ``2 + T``, `old_bank` in ``3 + T``, `low_pass`, `accumulate` and `growth` in ``4 + T``
    and `store` in ``6 + T``. One word per cycle.

    Bit accuracy
    ------------
    One row of ``hwattn.sim.model.matrix``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.word_bits = ceil_log2(config.row_words)
        self.resident_depth = ((config.row_slots - 1) << self.word_bits) + config.row_words
        column_bits = ceil_log2(config.acc_columns)
        super().__init__(
            {
                "write_enable": In(1),
                "write_addr": In(range(self.resident_depth)),
                "write_data": In(8 * config.lanes),
                "fetch": In(1),
                "fetch_addr": In(range(self.resident_depth)),
                "resident_unsigned": In(1),
                "low_pass": In(1),
                "accumulate": In(1),
                "growth": In(GROWTH_BITS),
                "streamed": In(8 * config.lanes),
                "add": In(1),
                "first": In(1),
                "read_enable": In(config.acc_banks),
                "read_addr": In(column_bits).array(config.acc_banks),
                "data": Out(signed(ACCUMULATOR_BITS)).array(config.acc_banks),
                "old_bank": In(range(config.acc_banks)),
                "store": In(config.acc_banks),
                "store_addr": In(column_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dot = self._tree(m, self._products(m))

        total = Signal(signed(ACCUMULATOR_BITS))
        with m.If(self.add):
            m.d.sync += total.eq(Mux(self.first, 0, total) + dot)
        finished = Signal(signed(ACCUMULATOR_BITS))
        high = (total >> 8) + total[7]
        m.d.sync += finished.eq(Mux(self.low_pass, high, total))

        # A zero below the old content keeps the bit that rounds after the shift
        old = Signal(signed(ACCUMULATOR_BITS))
        shifted = Signal(signed(ACCUMULATOR_BITS + 1))
        result = Signal(signed(ACCUMULATOR_BITS))
        m.d.sync += [
            old.eq(Array(self.data)[self.old_bank]),
            shifted.eq(Mux(self.accumulate, Cat(0, old).as_signed() >> self.growth, 0)),
            result.eq((shifted >> 1) + finished + shifted[0]),
        ]
        for bank in range(self.config.acc_banks):
            m.submodules[f"accumulators_{bank}"] = memory = block_ram(
                ACCUMULATOR_BITS, self.config.acc_columns
            )
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                read.en.eq(self.read_enable[bank]),
                read.addr.eq(self.read_addr[bank]),
                self.data[bank].eq(read.data),
                write.en.eq(self.store[bank]),
                write.addr.eq(self.store_addr),
                write.data.eq(result),
            ]
        return m

    def _products(self, m: Module) -> list[Signal]:
        """Multiply the resident word with the streamed word: one register for the operand, one for the product."""
        lanes = self.config.lanes
        m.submodules.resident = memory = block_ram(8 * lanes, self.resident_depth)
        read, write = memory.read_port(), memory.write_port()
        resident = Signal(8 * lanes)
        m.d.comb += [
            read.en.eq(self.fetch),
            read.addr.eq(self.fetch_addr),
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
        ]
        m.d.sync += resident.eq(read.data)
        products = []
        for lane in range(lanes):
            product = Signal(signed(PRODUCT_BITS), name=f"product_{lane}")
            byte = resident.word_select(lane, 8)
            operand = Cat(byte, byte[7] & ~self.resident_unsigned).as_signed()
            m.d.sync += product.eq(operand * self.streamed.word_select(lane, 8).as_signed())
            products.append(product)
        return products

    def _tree(self, m: Module, terms: list[Any]) -> Signal:
        """Add up the products, with a register after every few levels."""
        level = 0
        while len(terms) > 1:
            sums = [low + high for low, high in zip(terms[::2], terms[1::2], strict=True)]
            level += 1
            if level % TREE_LEVELS == 0 or len(sums) == 1:
                terms = [Signal(each.shape(), name=f"sum_{level}_{index}") for index, each in enumerate(sums)]
                m.d.sync += [term.eq(each) for term, each in zip(terms, sums, strict=True)]
            else:
                terms = sums
        (dot,) = terms
        return dot
