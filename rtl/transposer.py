"""Transposition of groups of columns into words of one row."""

from __future__ import annotations

from amaranth.hdl import Array, Assert, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

ELEMENT_BITS = 16


class Transposer(wiring.Component):
    """Buffer of groups of `lanes` columns: written column by column, read row by row or column by column.

    A column arrives as chunks of `width` rows. There is one small asynchronous memory for each column of a group, so that a whole row
    can be read at once. Groups pass in order; while one is filled, others wait or are read.

    Parameters
    ----------
    rows, lanes : int
        Rows of a column; columns of a group.
    width : int
        Rows written in a cycle.

    Members
    -------
    reserve : In
        A new group is about to be written; only while `available`.
    available : Out
        A group can be reserved.
    write : In
        Write `values` (array of `width` signed 16-bit elements) to rows ``write_chunk * width`` and up of column `write_column`.
    write_last : In
        With `write`: the group is complete.
    full : Out
        The oldest complete group can be read.
    read_chunk, read_lane, read_column : In
        Row ``read_chunk * width + read_lane`` appears at `row` (array of `lanes` elements), rows ``read_chunk * width`` and up of column
        `read_column` at `column` (array of `width` elements), in the same cycle.
    release : In
        The oldest complete group has been read.

    Latency
    -------
    A group can be read in the cycle after its last write.

    Bit accuracy
    ------------
    Moves data only.
    """

    def __init__(self, rows: int, lanes: int, width: int) -> None:
        self.chunks = -(-rows // width)
        # 16 words of asynchronous memory cost as much as one
        self.groups = 4 if self.chunks <= 4 else 2
        self._lanes = lanes
        self._width = width
        chunk, lane = range(self.chunks), range(width)
        element = signed(ELEMENT_BITS)
        super().__init__(
            {
                "reserve": In(1),
                "available": Out(1),
                "write": In(1),
                "write_last": In(1),
                "write_column": In(range(lanes)),
                "write_chunk": In(chunk),
                "values": In(data.ArrayLayout(element, width)),
                "full": Out(1),
                "read_chunk": In(chunk),
                "read_lane": In(lane),
                "read_column": In(range(lanes)),
                "row": Out(data.ArrayLayout(element, lanes)),
                "column": Out(data.ArrayLayout(element, width)),
                "release": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free = Signal(range(self.groups + 1), init=self.groups)
        complete = Signal(range(self.groups + 1))
        write_group = Signal(range(self.groups))
        read_group = Signal(range(self.groups))
        m.d.comb += [self.available.eq(free.any()), self.full.eq(complete.any())]
        m.d.sync += [
            free.eq(free - self.reserve + self.release),
            complete.eq(complete + (self.write & self.write_last) - self.release),
            Assert(~self.reserve | free.any(), "a group was reserved without room"),
            Assert(~self.release | complete.any(), "a group was released before it was complete"),
        ]
        with m.If(self.write & self.write_last):
            m.d.sync += write_group.eq(Mux(write_group == self.groups - 1, 0, write_group + 1))
        with m.If(self.release):
            m.d.sync += read_group.eq(Mux(read_group == self.groups - 1, 0, read_group + 1))

        chunk = data.ArrayLayout(signed(ELEMENT_BITS), self._width)
        columns = []
        for i in range(self._lanes):
            m.submodules[f"column_{i}"] = memory = Memory(
                shape=chunk, depth=self.groups * self.chunks, init=[]
            )
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(write_group * self.chunks + self.write_chunk),
                write.data.eq(self.values),
                write.en.eq(self.write & (self.write_column == i)),
                read.addr.eq(read_group * self.chunks + self.read_chunk),
                self.row[i].eq(read.data[self.read_lane]),
            ]
            columns.append(read.data.as_value())
        m.d.comb += self.column.eq(Array(columns)[self.read_column])
        return m
