"""Many long counters for few look-up tables: short ones that catch every event, emptied in turn into a memory."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.rtl.memory import select

READ_SPACING = 3
"""At most one of so many cycles reads a counter."""


class Counters(wiring.Component):
    """Count events of each cycle; one counter in each cycle is brought up to date in memory, in turns.

    Parameters
    ----------
    most : sequence of int
        For each counter the most that it is raised by in one cycle.
    width : int
        Bits of a counter.

    Members
    -------
    clear : In(1)
        All counters become 0; events of this cycle are not counted.
    count : In(1)
        Count the events of this cycle.
    events : In, array
        What each counter is raised by.
    read : In(1), chosen : In, a bit for each counter
        The counter to read, at most once in `READ_SPACING` cycles.
    value : Out(width)
        One cycle after `read`: the events of all cycles before this one.

    Latency
    -------
    One cycle from `read` to `value`: a counter that is read is brought up to date first.
    """

    def __init__(self, most: Sequence[int], width: int) -> None:
        self.most = tuple(most)
        self._width = width
        super().__init__(
            {
                "clear": In(1),
                "count": In(1),
                "events": In(range(max(self.most) + 1)).array(len(self.most)),
                "read": In(1),
                "chosen": In(len(self.most)),
                "value": Out(width),
            }
        )

    @property
    def longest_turn(self) -> int:
        """Cycles from one visit of a counter to the next, with as many reads in between as there can be."""
        return -(-len(self.most) * READ_SPACING // (READ_SPACING - 1)) + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = len(self.most)
        m.submodules.memory = memory = Memory(shape=self._width, depth=total, init=[])
        stored, write = memory.read_port(domain="comb"), memory.write_port()
        # whose turn it is, and which one is visited: a bit for each counter, for a number would be long to decode
        turn, hit = Signal(total, init=1), Signal(total, init=1)
        visited = Signal(range(total))  # `hit` as a number
        # a counter that has not been visited since the last clear is 0, whatever is stored
        fresh, stored_counts = Signal(total), Signal()
        waiting = [
            Signal(range(self.longest_turn * most + 1), name=f"waiting_{number}")
            for number, most in enumerate(self.most)
        ]
        m.d.comb += [
            stored.addr.eq(visited),
            write.addr.eq(visited),
            write.data.eq(self.value),
            write.en.eq(1),
            self.value.eq(Mux(stored_counts, stored.data, 0) + select(list(hit), waiting)),
        ]
        with m.If(~self.read):
            m.d.sync += turn.eq(turn.rotate_left(1))
        for number, short in enumerate(waiting):
            left = Mux(hit[number], 0, short)
            m.d.sync += short.eq(left + Mux(self.count, self.events[number], 0))
        with m.If(self.clear):
            m.d.sync += [short.eq(0) for short in waiting]
        next_hit, next_fresh = Mux(self.read, self.chosen, turn), Mux(self.clear, 0, fresh | hit)
        next_visited = select(list(next_hit), [Const(number, len(visited)) for number in range(total)])
        m.d.sync += [visited.eq(next_visited), hit.eq(next_hit), fresh.eq(next_fresh)]
        m.d.sync += stored_counts.eq((next_hit & next_fresh).any())
        return m
