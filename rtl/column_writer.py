"""Writes groups of post-processed columns column by column, at any byte address."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, write_port
from hwattn.rtl.transposer import ELEMENT_BITS
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig


class ColumnWriter(wiring.Component):
    """Read groups of `lanes` columns column by column and write each as one row of bytes.

    A column is gathered from its chunks; then it passes a byte rotator, `lanes` bytes per cycle, and what runs over a word's end waits
    for the next word. Every byte carries a bit that says whether it is one of the command's rows, the write mask.

    Parameters
    ----------
    config : AcceleratorConfig
    groups : int
        Groups of `lanes` columns that the transposer holds.

    Members
    -------
    command : In, fields of `Post`
        Hold from `start` on.
    start : In
        Begins a command, in a cycle before its first column is written.
    written : In
        A column has been written into the transposer; its group need not be complete.
    column, read_chunk, read_column, release
        The transposer's reading side.
    act_write : Out
        Port of the activation memory.
    done : Out
        The last write of the command was accepted one cycle ago.

    Latency
    -------
    The first word leaves ``ceil(rows / post_lanes) + 3`` cycles after its column is written; then
    ``max(ceil(rows / post_lanes), words touched)`` cycles for each column.

    Bit accuracy
    ------------
    Moves data only.
    """

    def __init__(self, config: AcceleratorConfig, groups: int) -> None:
        self._config = config
        self._groups = groups
        width = config.post_lanes
        self._chunks = -(-config.rows // width)
        super().__init__(
            {
                "command": In(command_layout(isa.Post)),
                "start": In(1),
                "written": In(1),
                "column": In(data.ArrayLayout(ELEMENT_BITS, width)),
                "read_chunk": Out(range(self._chunks)),
                "read_column": Out(range(config.lanes)),
                "release": Out(1),
                "act_write": Out(write_port(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, lanes = self._config.post_lanes, self._config.lanes
        byte = data.StructLayout({"value": 8, "valid": 1})
        words = -(-self._config.rows // lanes)
        gathered = Signal(data.ArrayLayout(byte, max(self._chunks * width, words * lanes)))
        gathered_valid, gathered_last, take, finish = Signal(), Signal(), Signal(), Signal()

        # Gather the chunks of a column
        chunk, row = Signal(range(self._chunks)), Signal(len(self.command.rows) + 1)
        column = Signal(range(lanes))
        left = Signal(len(self.command.columns))
        waiting = Signal(range(self._groups * lanes + 1))  # columns written and not yet gathered
        gather = waiting.any() & (~gathered_valid | take)
        last_chunk, last_column = row + width >= self.command.rows, left == 1
        m.d.comb += [
            self.read_chunk.eq(chunk),
            self.read_column.eq(column),
            self.release.eq(gather & last_chunk & (last_column | (column == lanes - 1))),
        ]
        m.d.sync += waiting.eq(waiting + self.written - (gather & last_chunk))
        with m.If(take):
            m.d.sync += gathered_valid.eq(0)
        with m.If(gather):
            m.d.sync += [chunk.eq(chunk + 1), row.eq(row + width)]
            for i in range(self._chunks * width):
                with m.If(chunk == i // width):
                    m.d.sync += gathered[i].value.eq(self.column[i % width])
                m.d.sync += gathered[i].valid.eq(i < self.command.rows)
            with m.If(last_chunk):
                m.d.sync += [
                    chunk.eq(0),
                    row.eq(0),
                    column.eq(column + 1),
                    left.eq(left - 1),
                    gathered_valid.eq(1),
                    gathered_last.eq(last_column),
                ]
        with m.If(self.start):
            m.d.sync += [chunk.eq(0), row.eq(0), column.eq(0), left.eq(self.command.columns)]

        # Cut it into words
        cut = Signal(data.ArrayLayout(byte, words * lanes))
        over = Signal(data.ArrayLayout(byte, lanes))  # rotated bytes of the word before
        cut_valid, cut_last, step = Signal(), Signal(), Signal()
        column_address, address = Signal(WORD_ADDRESS_BITS), Signal(WORD_ADDRESS_BITS)
        lane_bits = (lanes - 1).bit_length()
        offset = self.command.base[:lane_bits]
        rotated = _rotated(m, [cut[i].as_value() for i in range(lanes)], offset)
        before = [i < offset for i in range(lanes)]  # lanes that belong to the next word
        rest = [cut[i].valid for i in range(lanes, words * lanes)]
        m.d.comb += [
            take.eq(gathered_valid & (~cut_valid | finish)),
            finish.eq(step & ~Cat(rest, (rotated[i][8] & before[i] for i in range(lanes))).any()),
        ]
        with m.If(finish):
            m.d.sync += cut_valid.eq(0)
        with m.If(step):
            m.d.sync += [address.eq(address + 1), over.eq(Cat(rotated))]
            m.d.sync += cut.eq(cut.as_value() >> len(over.as_value()))
        with m.If(take):
            m.d.sync += [
                cut_valid.eq(1),
                cut_last.eq(gathered_last),
                cut.eq(gathered.as_value()),
                over.eq(0),
                address.eq(column_address),
                column_address.eq(column_address + self.command.stride),
            ]
        with m.If(self.start):
            m.d.sync += column_address.eq(self.command.base >> lane_bits)

        # Write them
        last = Signal()
        write = self.act_write.payload
        m.d.comb += step.eq(cut_valid & (~self.act_write.valid | self.act_write.ready))
        with m.If(self.act_write.ready):
            m.d.sync += self.act_write.valid.eq(0)
        with m.If(step):
            m.d.sync += [self.act_write.valid.eq(1), write.addr.eq(address), last.eq(cut_last & finish)]
            for i in range(lanes):
                chosen = Mux(before[i], over[i].as_value(), rotated[i])
                m.d.sync += [write.data[8 * i : 8 * i + 8].eq(chosen[:8]), write.mask[i].eq(chosen[8])]
        m.d.sync += self.done.eq(self.act_write.valid & self.act_write.ready & last)
        return m


def _rotated(m: Module, items: list[Value], amount: Value) -> list[Value]:
    """Return the list rotated towards higher positions by `amount`, with signals for each step so that expressions stay short."""
    for bit, select in enumerate(amount):
        distance = 1 << bit
        step = [Signal.like(item, name=f"rotated_{bit}_{i}") for i, item in enumerate(items)]
        m.d.comb += [each.eq(Mux(select, items[i - distance], items[i])) for i, each in enumerate(step)]
        items = list(step)
    return items
