"""Writes groups of probabilities into the resident rows."""

from __future__ import annotations

from amaranth.hdl import Array, Assert, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import SLOT_BITS, resident_port
from hwattn.rtl.transposer import ELEMENT_BITS
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig


class ProbabilityWriter(wiring.Component):
    """Read groups of `lanes` keys row by row from the transposer and write them as words.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    slot, p16, rows, keys : In
        Fields of the command.
    start : In
        Begins a command, in a cycle before its first group is `full`.
    full, row, read_chunk, read_lane, release
        The transposer's reading side.
    resident : Out, stream of resident words
        Must always be ready.
    done : Out
        The last word of the command is being written.

    Latency
    -------
    A word per cycle, from the cycle after the group is full: one for each row, or with `p16` two (high bytes, low bytes).

    Bit accuracy
    ------------
    Moves data only; keys beyond the last one are zero.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        width = config.softmax_lanes
        fields = command_layout(isa.Softmax).members
        super().__init__(
            {
                "slot": In(SLOT_BITS),
                "p16": In(1),
                "rows": In(fields["rows"]),
                "keys": In(fields["keys"]),
                "start": In(1),
                "full": In(1),
                "row": In(data.ArrayLayout(ELEMENT_BITS, config.lanes)),
                "read_chunk": Out(range(-(-config.rows // width))),
                "read_lane": Out(range(width)),
                "release": Out(1),
                "resident": Out(resident_port(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, lanes = self._config.softmax_lanes, self._config.lanes
        row = Signal(range(self._config.rows))
        group = Signal(range(self._config.row_words))
        left = Signal(len(self.keys))
        low = Signal()  # the low bytes of a row follow its high bytes
        row_end, last_row = Signal(), Signal()
        write = self.resident.payload
        m.d.comb += [
            self.read_chunk.eq(Array([index // width for index in range(self._config.rows)])[row]),
            self.read_lane.eq(Array([index % width for index in range(self._config.rows)])[row]),
            row_end.eq(self.full & (low | ~self.p16)),
            last_row.eq(row == self.rows - 1),
            self.release.eq(row_end & last_row),
        ]
        m.d.sync += [
            self.resident.valid.eq(self.full),
            self.done.eq(self.release & (left <= lanes)),
            write.slot.eq(self.slot + low),
            write.row.eq(row),
            write.word.eq(group),
            low.eq(self.full & self.p16 & ~low),
            Assert(~self.resident.valid | self.resident.ready, "the resident rows stalled the softmax unit"),
        ]
        for i in range(lanes):
            high_byte, low_byte = self.row[i][8:], self.row[i][:8]
            byte = Mux(self.p16 & ~low, high_byte, low_byte)
            m.d.sync += write.data[8 * i : 8 * i + 8].eq(Mux(i < left, byte, 0))
        with m.If(row_end):
            m.d.sync += row.eq(Mux(last_row, 0, row + 1))
        with m.If(self.release):
            m.d.sync += [group.eq(group + 1), left.eq(left - lanes)]
        with m.If(self.start):
            m.d.sync += [row.eq(0), group.eq(0), left.eq(self.keys)]
        return m
