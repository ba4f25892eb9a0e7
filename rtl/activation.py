"""Activation functions by table: ReLU minus a small even function, interpolated."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.interfaces import (
    TABLE_ADDRESS_BITS,
    TABLE_DIFFERENCE_BITS,
    TABLE_VALUE_BITS,
    entry_write,
    table_layout,
)
from hwattn.rtl.memory import block_ram
from hwattn.rtl.pipeline import delayed
from hwattn.spec.tables import (
    ACTIVATION_FRACTION,
    ACTIVATION_INPUT_BITS,
    ACTIVATION_INPUT_FRACTION,
    ACTIVATION_INTERVALS,
    ActivationTable,
)

RESULT_BITS = ACTIVATION_INPUT_BITS + ACTIVATION_FRACTION - ACTIVATION_INPUT_FRACTION + 1
_OFFSET_BITS = 7  # of the wider interval


class Activation(wiring.Component):
    """Apply ``f(x) = ReLU(x) - delta(|x|)`` to several values at once (Edge-MoE, section IV-C).

    Parameters
    ----------
    lanes : int
        Values per cycle; each has its own copy of the table.
    table : ActivationTable or None
        Initial contents.

    Members
    -------
    value : In, array of `lanes` x 18 bits signed
        12 fraction bits.
    interval_shift : In
        The table's intervals are 2**6 (0) or 2**7 (1) input units wide.
    table_write : In, stream of table entries
        Always ready.
    result : Out, array of `lanes` x 26 bits signed
        19 fraction bits.

    Latency
    -------
    `DELAY` cycles, one vector per cycle, never stalled.

    Bit accuracy
    ------------
    `hwattn.sim.model.post.activate`.
    """

    DELAY = 5

    def __init__(self, lanes: int, table: ActivationTable | None = None) -> None:
        self._lanes = lanes
        self._init = [] if table is None else _entries(table)
        super().__init__(
            {
                "value": In(data.ArrayLayout(signed(ACTIVATION_INPUT_BITS), lanes)),
                "interval_shift": In(1),
                "table_write": In(entry_write(TABLE_ADDRESS_BITS, table_layout())),
                "result": Out(data.ArrayLayout(signed(RESULT_BITS), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.table_write.ready.eq(1)
        for i in range(self._lanes):
            m.submodules[f"table_{i}"] = memory = block_ram(table_layout(), ACTIVATION_INTERVALS, self._init)
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.addr.eq(self.table_write.payload.addr),
                write.data.eq(self.table_write.payload.data),
                write.en.eq(self.table_write.valid),
            ]
            value = self.value[i]
            magnitude = Signal(ACTIVATION_INPUT_BITS, name=f"magnitude_{i}")
            beside = data.StructLayout({"positive": ACTIVATION_INPUT_BITS - 1, "inside": 1})
            now = Signal(beside, name=f"now_{i}")
            offset = Signal(_OFFSET_BITS, name=f"offset_{i}")
            offset_late = Signal(_OFFSET_BITS, name=f"offset_late_{i}")
            index = magnitude >> Mux(self.interval_shift, 7, 6)
            m.d.comb += [
                magnitude.eq(Mux(value < 0, -value, value)),
                now.positive.eq(Mux(value < 0, 0, value)),
                now.inside.eq(index < ACTIVATION_INTERVALS),
            ]
            tags = delayed(m, now, self.DELAY - 1, f"beside_{i}")
            knot = Signal(signed(TABLE_VALUE_BITS), name=f"knot_{i}")
            product = Signal(signed(TABLE_DIFFERENCE_BITS + _OFFSET_BITS), name=f"product_{i}")
            delta = Signal(signed(TABLE_VALUE_BITS + 1), name=f"delta_{i}")
            step = Mux(self.interval_shift, (product + (1 << 6)) >> 7, (product + (1 << 5)) >> 6)
            scale = ACTIVATION_FRACTION - ACTIVATION_INPUT_FRACTION
            m.d.sync += [
                read.addr.eq(index),
                offset.eq(Mux(self.interval_shift, magnitude[:7], magnitude[:6])),
                offset_late.eq(offset),
                knot.eq(read.data.value),
                product.eq(read.data.difference * offset_late),
                delta.eq(Mux(tags[2].inside, knot + step, 0)),
                self.result[i].eq((tags[3].positive << scale) - delta),
            ]
        return m


def _entries(table: ActivationTable) -> list[dict[str, int]]:
    pairs = zip(table.value, table.difference, strict=True)
    return [{"value": int(value), "difference": int(difference)} for value, difference in pairs]
