"""Writes groups of post-processed columns row by row: the token-major formats."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, read_port, write_port
from hwattn.rtl.requantize import saturated
from hwattn.rtl.transposer import ELEMENT_BITS
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Format


class RowWriter(wiring.Component):
    """Read groups of `lanes` columns row by row and write them as INT8, INT16 or RESIDUAL.

    A row passes through two stages: `fetch` reads what a residual is added to, `store` writes.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In, fields of `Post`
        Hold from `start` on.
    start : In
        Begins a command, in a cycle before its first group is `full`.
    full, row, read_chunk, read_lane, release
        The transposer's reading side.
    address_row, address : Out, In
        Look-up of the word address of a row's first word, in the same cycle.
    addresses : In
        Number of rows whose address is known already.
    act_read, act_write : Out
        Ports of the activation memory.
    done : Out
        The last write of the command was accepted one cycle ago.

    Latency
    -------
    The first word leaves two cycles after its group is full (five for RESIDUAL). INT8: one cycle for each row; INT16: two; RESIDUAL: four.

    Bit accuracy
    ------------
    Moves data; RESIDUAL adds as `hwattn.spec.numbers.saturate` to 16 bits.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        width = config.post_lanes
        super().__init__(
            {
                "command": In(command_layout(isa.Post)),
                "start": In(1),
                "full": In(1),
                "row": In(data.ArrayLayout(signed(ELEMENT_BITS), config.lanes)),
                "read_chunk": Out(range(-(-config.rows // width))),
                "read_lane": Out(range(width)),
                "release": Out(1),
                "address_row": Out(range(config.rows)),
                "address": In(WORD_ADDRESS_BITS),
                "addresses": In(range(config.rows + 1)),
                "act_read": Out(read_port(config)),
                "act_write": Out(write_port(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, width, rows = self._config.lanes, self._config.post_lanes, range(self._config.rows)
        residual = self.command.format == Format.RESIDUAL
        two_words = self.command.format != Format.INT8
        layout = data.StructLayout(
            {
                "addr": WORD_ADDRESS_BITS,
                "elements": data.ArrayLayout(signed(ELEMENT_BITS), lanes),
                "last": 1,
            }
        )

        # From the transposer into `fetch`
        fetch, fetch_valid, fetch_end = Signal(layout), Signal(), Signal()
        row = Signal(rows)
        offset = Signal(WORD_ADDRESS_BITS)  # of this group's words
        left = Signal(len(self.command.columns))  # columns from this group's first to the command's last
        load, last_row = Signal(), row == self.command.rows - 1
        m.d.comb += [
            load.eq(self.full & (row < self.addresses) & (~fetch_valid | fetch_end)),
            self.release.eq(load & last_row),
            self.address_row.eq(row),
            self.read_chunk.eq(Array([index // width for index in rows])[row]),
            self.read_lane.eq(Array([index % width for index in rows])[row]),
        ]
        with m.If(fetch_end):
            m.d.sync += fetch_valid.eq(0)
        with m.If(load):
            m.d.sync += [
                fetch_valid.eq(1),
                fetch.addr.eq(self.address + offset),
                fetch.last.eq(last_row & (left <= lanes)),
                row.eq(Mux(last_row, 0, row + 1)),
            ]
            for i in range(lanes):
                m.d.sync += fetch.elements[i].eq(Mux(i < left, self.row[i], 0))
        with m.If(self.release):
            m.d.sync += [offset.eq(offset + Mux(two_words, 2, 1)), left.eq(left - lanes)]
        with m.If(self.start):
            m.d.sync += [row.eq(0), offset.eq(0), left.eq(self.command.columns)]

        # The old value of a residual: low word, then high word; what is asked for lies in registers, for others wait for the answer
        asking, high_asked, got = Signal(), Signal(), Signal(range(3))
        place = Signal(WORD_ADDRESS_BITS)
        old_low, old_high = Signal(8 * lanes), Signal(8 * lanes)
        m.d.comb += [self.act_read.request.valid.eq(asking), self.act_read.request.payload.eq(place)]
        with m.If(asking & self.act_read.request.ready):
            m.d.sync += [place.eq(place + 1), high_asked.eq(1), asking.eq(~high_asked)]
        with m.If(load):
            m.d.sync += [asking.eq(residual), high_asked.eq(0), place.eq(self.address + offset)]
        with m.If(self.act_read.valid):
            m.d.sync += [got.eq(got + 1), old_low.eq(old_high), old_high.eq(self.act_read.data)]
        with m.If(fetch_end):
            m.d.sync += got.eq(0)

        # From `fetch` into `store`
        store, store_valid, store_end, high = Signal(layout), Signal(), Signal(), Signal()
        with m.If(store_valid & self.act_write.ready):
            m.d.sync += [high.eq(two_words & ~high), store.addr.eq(store.addr + 1)]
        m.d.comb += fetch_end.eq(fetch_valid & (~residual | (got == 2)) & (~store_valid | store_end))
        with m.If(store_end):
            m.d.sync += store_valid.eq(0)
        with m.If(fetch_end):
            m.d.sync += [store_valid.eq(1), store.addr.eq(fetch.addr), store.last.eq(fetch.last)]
        for i in range(lanes):
            byte = slice(8 * i, 8 * i + 8)
            old = Cat(old_low[byte], old_high[byte]).as_signed()
            total: Value = saturated(fetch.elements[i] + Mux(residual, old, 0), ELEMENT_BITS)
            with m.If(fetch_end):
                m.d.sync += store.elements[i].eq(total)

        # Writing
        write = self.act_write.payload
        elements = [store.elements[i].as_unsigned() for i in range(lanes)]
        m.d.comb += [
            self.act_write.valid.eq(store_valid),
            write.addr.eq(store.addr),
            write.mask.eq((1 << lanes) - 1),
            write.data.eq(Mux(high, Cat(each[8:] for each in elements), Cat(each[:8] for each in elements))),
            store_end.eq(store_valid & self.act_write.ready & (high | ~two_words)),
        ]
        m.d.sync += self.done.eq(store_end & store.last)
        return m
