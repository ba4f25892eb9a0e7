"""What the softmax unit remembers of every row: running maximum, running sum, growth of the maximum."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.rtl.exponential import PROBABILITY_BITS
from hwattn.rtl.interfaces import GROWTH_BITS, SUM_BITS, growth_port, sum_port
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig

_MAXIMUM_BITS = 9
SENTINEL = -(1 << (_MAXIMUM_BITS - 1))
"""Maximum before the first key, below that of any score."""

_GROWTH_MAX = (1 << GROWTH_BITS) - 1


class SoftmaxState(wiring.Component):
    """Running maximum, sum and growth of every row of every softmax state.

    Parameters
    ----------
    config : AcceleratorConfig

    Attributes
    ----------
    totals : list of Memory
        Sums of the rows, one memory for each lane, addressed by state and chunk.

    Members
    -------
    state, first : In
        The state of the command, and whether it starts afresh.
    raise_valid, raise_chunk, raise_first, raise_rows, ceilings : In
        Pass 1: raise the maxima of a chunk, from the old ones with `raise_first`.
    grow_valid, grow_chunk, grow_rows : In
        Pass 2: first key of a chunk; its maxima have grown, its sums must shrink.
    maxima : Out
        Raised maxima of `grow_chunk`, in the same cycle.
    add_valid, add_chunk, add_first, add_rows, addends : In
        Pass 2: add to the sums of a chunk, to the shrunk ones with `add_first`, four cycles after `grow_valid`.
    growth, sums : In
        Look-ups for the other units.

    Latency
    -------
    Everything takes effect in the next cycle.

    Bit accuracy
    ------------
    `hwattn.sim.model.softmax.softmax_block`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        width = config.softmax_lanes
        self._chunks = -(-config.rows // width)
        self.totals = [
            Memory(shape=unsigned(SUM_BITS), depth=isa.SOFTMAX_STATES * self._chunks, init=[])
            for _ in range(width)
        ]
        chunk = range(self._chunks)
        maxima = data.ArrayLayout(signed(_MAXIMUM_BITS), width)
        super().__init__(
            {
                "state": In(range(isa.SOFTMAX_STATES)),
                "first": In(1),
                "raise_valid": In(1),
                "raise_chunk": In(chunk),
                "raise_first": In(1),
                "raise_rows": In(width),
                "ceilings": In(maxima),
                "grow_valid": In(1),
                "grow_chunk": In(chunk),
                "grow_rows": In(width),
                "maxima": Out(maxima),
                "add_valid": In(1),
                "add_chunk": In(chunk),
                "add_first": In(1),
                "add_rows": In(width),
                "addends": In(data.ArrayLayout(PROBABILITY_BITS, width)),
                "growth": In(growth_port(config)),
                "sums": In(sum_port(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunks, width, rows = self._chunks, self._config.softmax_lanes, self._config.rows
        states = isa.SOFTMAX_STATES
        sum_row = Signal(range(rows))
        sum_chunk = Array([row // width for row in range(rows)])[sum_row]
        sum_lane = Array([row % width for row in range(rows)])[sum_row]
        totals, growths = [], []
        m.d.comb += sum_row.eq(self.sums.row)
        for i in range(width):
            m.submodules[f"peak_{i}"] = peak = Memory(shape=signed(_MAXIMUM_BITS), depth=chunks, init=[])
            m.submodules[f"maximum_{i}"] = maximum = Memory(
                shape=signed(_MAXIMUM_BITS), depth=states * chunks, init=[]
            )
            m.submodules[f"sum_{i}"] = total = self.totals[i]
            peak_write, peak_read = peak.write_port(), peak.read_port(domain="comb")
            max_write, max_read = maximum.write_port(), maximum.read_port(domain="comb")
            sum_write = total.write_port()
            old_sum, sum_read, sum_look = (total.read_port(domain="comb") for _ in range(3))
            base = self.state * chunks
            active = Mux(self.raise_valid, self.raise_chunk, self.grow_chunk)

            # Pass 1
            old_maximum = Signal(signed(_MAXIMUM_BITS), name=f"old_maximum_{i}")
            start = Signal(signed(_MAXIMUM_BITS), name=f"start_{i}")
            ceiling = self.ceilings[i]
            m.d.comb += [
                peak_read.addr.eq(active),
                max_read.addr.eq(base + active),
                old_maximum.eq(Mux(self.first, SENTINEL, max_read.data)),
                start.eq(Mux(self.raise_first, old_maximum, peak_read.data)),
                peak_write.addr.eq(self.raise_chunk),
                peak_write.data.eq(Mux(ceiling > start, ceiling, start)),
                peak_write.en.eq(self.raise_valid),
            ]

            # Pass 2, first key: growth and shrunk sum, in three cycles
            growth = Signal(GROWTH_BITS, name=f"growth_{i}")
            difference = peak_read.data - old_maximum
            before = Signal(SUM_BITS, name=f"before_{i}")
            shifted = Signal(SUM_BITS + 1, name=f"shifted_{i}")
            shrunk = Signal(SUM_BITS, name=f"shrunk_{i}")
            m.d.comb += [
                self.maxima[i].eq(peak_read.data),
                max_write.addr.eq(base + self.grow_chunk),
                max_write.data.eq(peak_read.data),
                max_write.en.eq(self.grow_valid & self.grow_rows[i]),
                old_sum.addr.eq(base + self.grow_chunk),
            ]
            m.d.sync += [
                growth.eq(Mux(difference > _GROWTH_MAX, _GROWTH_MAX, difference)),
                before.eq(Mux(self.first, 0, old_sum.data)),
                shifted.eq((before << 1) >> growth),
                shrunk.eq((shifted + 1) >> 1),
            ]

            # Pass 2, every key
            late_shrunk = Signal(SUM_BITS, name=f"late_shrunk_{i}")
            added = Signal(SUM_BITS + 1, name=f"added_{i}")
            m.d.sync += late_shrunk.eq(shrunk)
            m.d.comb += [
                sum_read.addr.eq(base + self.add_chunk),
                added.eq(Mux(self.add_first, late_shrunk, sum_read.data) + self.addends[i]),
                sum_write.addr.eq(base + self.add_chunk),
                sum_write.data.eq(Mux(added[SUM_BITS], (1 << SUM_BITS) - 1, added)),
                sum_write.en.eq(self.add_valid & self.add_rows[i]),
                sum_look.addr.eq(self.sums.state * chunks + sum_chunk),
            ]
            totals.append(sum_look.data)
            growths.append(growth)
        m.d.comb += self.sums.total.eq(Array(totals)[sum_lane])
        self._look_up_growth(m, growths)
        return m

    def _look_up_growth(self, m: Module, growths: list[Signal]) -> None:
        """Keep the growth of all rows of a state in one word, so that it can be read at once."""
        rows, width = self._config.rows, self._config.softmax_lanes
        shape = data.ArrayLayout(GROWTH_BITS, rows)
        m.submodules.growth_memory = memory = Memory(shape=shape, depth=isa.SOFTMAX_STATES, init=[])
        write, read = memory.write_port(granularity=1), memory.read_port(domain="comb")
        valid, chunk, enable = Signal(), Signal(range(self._chunks)), Signal(width)
        m.d.sync += [valid.eq(self.grow_valid), chunk.eq(self.grow_chunk), enable.eq(self.grow_rows)]
        m.d.comb += [
            read.addr.eq(self.growth.state),
            self.growth.growth.eq(read.data),
            write.addr.eq(self.state),
        ]
        for row in range(rows):
            lane = row % width
            m.d.comb += [
                write.data[row].eq(Mux(self.first, 0, growths[lane])),
                write.en[row].eq(valid & (chunk == row // width) & enable[lane]),
            ]
