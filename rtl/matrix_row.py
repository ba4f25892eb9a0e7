"""One row of the matrix unit: the sum of its dot products, and its accumulators."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from hwattn.rtl.dot_product import dot_shape
from hwattn.rtl.interfaces import ACCUMULATOR_BITS, GROWTH_BITS
from hwattn.rtl.memory import assert_apart, block_ram
from hwattn.spec.config import AcceleratorConfig


class MatrixRow(Component):
    """Adds up the dot products of one resident row's words in the row's accumulators.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    low_pass, accumulate, growth : In
        Settings of the word's command; `growth` is 0 unless accumulators are rescaled.
    dot : In(dot_shape(config))
        From ``DotProducts``.
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
    With T = ``tree_stages(lanes)``, for a word fetched in cycle 0: `dot` and `add` in ``3 + T``, and for the last word of a column
    `read_enable` in ``2 + T``, `old_bank` in ``3 + T``, `low_pass`, `accumulate` and `growth` in ``4 + T`` and `store` in ``6 + T``. One
    word per cycle.

    Bit accuracy
    ------------
    One row of ``hwattn.sim.model.matrix``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        column_bits = ceil_log2(config.acc_columns)
        super().__init__(
            {
                "low_pass": In(1),
                "accumulate": In(1),
                "growth": In(GROWTH_BITS),
                "dot": In(dot_shape(config)),
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
        total = Signal(signed(ACCUMULATOR_BITS))
        with m.If(self.add):
            m.d.sync += total.eq(Mux(self.first, 0, total) + self.dot)
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
            assert_apart(m, read, write)
        return m
