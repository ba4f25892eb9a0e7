"""Powers of two with a fraction: the exponential of the softmax."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.spec.tables import SCORE_FRACTION_BITS, exponential_table

DISTANCE_BITS = 17
PROBABILITY_BITS = 16
_TABLE_BITS = 17
_INTEGER_LIMIT = 18  # from here on every power rounds to zero


class Exponential(wiring.Component):
    """Compute ``2**16 * 2**-(distance / 256)``, at most 65535, of several distances at once: a table of the fraction, and a shift.

    Parameters
    ----------
    lanes : int
        Distances per cycle.

    Members
    -------
    distance : In, array of `lanes` x 17 bits
        Distance of a score from the maximum, 8 fraction bits.
    enable : In, `lanes` bits
        The result of a lane that is not enabled is 0.
    result : Out, array of `lanes` x 16 bits

    Latency
    -------
    `DELAY` cycles, one vector per cycle, never stalled.

    Bit accuracy
    ------------
    `hwattn.sim.model.softmax.probabilities` of the lanes that are enabled.
    """

    DELAY = 3

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        super().__init__(
            {
                "distance": In(data.ArrayLayout(DISTANCE_BITS, lanes)),
                "enable": In(lanes),
                "result": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = [int(entry) for entry in exponential_table()]
        m.submodules.table = memory = Memory(shape=_TABLE_BITS, depth=len(table), init=table)
        for i in range(self._lanes):
            fraction = self.distance[i][:SCORE_FRACTION_BITS]
            integer = self.distance[i][SCORE_FRACTION_BITS:]
            read = memory.read_port()
            amount = Signal(range(_INTEGER_LIMIT), name=f"amount_{i}")
            enable = Signal(name=f"enable_{i}")
            # twice the power, so that the bit that decides the rounding is kept
            doubled = Signal(_TABLE_BITS + 1, name=f"doubled_{i}")
            rounded = Signal(_TABLE_BITS + 1, name=f"rounded_{i}")
            m.d.comb += [read.addr.eq(fraction), rounded.eq((doubled + 1) >> 1)]
            m.d.sync += [
                amount.eq(integer),
                enable.eq(self.enable[i] & (integer < _INTEGER_LIMIT)),
                doubled.eq(Mux(enable, (read.data << 1) >> amount, 0)),
                self.result[i].eq(Mux(rounded[PROBABILITY_BITS], (1 << PROBABILITY_BITS) - 1, rounded)),
            ]
        return m
