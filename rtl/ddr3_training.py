"""Finds the moment at which a DDR3 chip's data are read: writes a pattern, reads it at each moment, and takes the middle of the good ones."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hwattn.spec.ddr3 import BURST, STEPS, WINDOW, Ddr3Timing

MOMENTS = STEPS * WINDOW
TRIES = 8
"""Reads of which all must be right at a moment that is good."""

_WORD = 0x5A96
_POLARITY = 0b10110100
_PATTERN = sum(
    (_WORD if _POLARITY >> transfer & 1 else _WORD ^ 0xFFFF) << 16 * transfer for transfer in range(BURST)
)


class Ddr3Training(Component):
    """Trains once, after power-up, with the last burst of the memory.

    Parameters
    ----------
    timing : Ddr3Timing

    Members
    -------
    running : In(1)
        The chip takes commands.
    wanted, writes : Out(1), issue : In(1)
        As of the `SdramSequencer`, for the last burst of the memory.
    pattern : Out
        What is written.
    burst : In
        What is read, `timing.read_latency` cycles after `issue`.
    moment : Out(range(STEPS * WINDOW))
        The moment that is tried, and at the end the one that was chosen.
    done, failed : Out(1)
        The training is over; no moment was good.

    Latency
    -------
    About `STEPS` * `WINDOW` * `TRIES` reads: 6,000 cycles.
    """

    def __init__(self, timing: Ddr3Timing) -> None:
        self.timing = timing
        bits = 8 * timing.chip.data_bytes
        super().__init__(
            {
                "running": In(1),
                "wanted": Out(1),
                "writes": Out(1),
                "issue": In(1),
                "pattern": Out(bits, init=_PATTERN),
                "burst": In(bits),
                "moment": Out(range(MOMENTS)),
                "done": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wait, tries = Signal(range(self.timing.read_latency)), Signal(range(TRIES))
        # of the moments up to this one: the first good one, their number, and whether a bad one came after them
        first, count, closed = Signal.like(self.moment), Signal(range(MOMENTS + 1)), Signal()
        right, good = Signal(), Signal()
        m.d.comb += [right.eq(self.burst == self.pattern), self.writes.eq(0)]
        with m.FSM():
            with m.State("Write"):
                m.d.comb += [self.wanted.eq(self.running), self.writes.eq(1)]
                with m.If(self.issue):
                    m.next = "Begin"
            with m.State("Begin"):
                m.d.sync += [good.eq(1), tries.eq(TRIES - 1)]
                m.next = "Read"
            with m.State("Read"):
                m.d.comb += self.wanted.eq(1)
                m.d.sync += wait.eq(self.timing.read_latency - 1)
                with m.If(self.issue):
                    m.next = "Compare"
            with m.State("Compare"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.sync += [good.eq(good & right), tries.eq(tries - 1)]
                    m.next = "Read"
                    with m.If(tries == 0):
                        m.next = "Judge"
            with m.State("Judge"):
                with m.If(good & ~closed):
                    m.d.sync += [first.eq(Mux(count == 0, self.moment, first)), count.eq(count + 1)]
                with m.Elif(count != 0):
                    m.d.sync += closed.eq(1)
                m.d.sync += self.moment.eq(self.moment + 1)
                m.next = "Begin"
                with m.If(self.moment == MOMENTS - 1):
                    m.next = "Choose"
            with m.State("Choose"):
                m.d.sync += [
                    self.moment.eq(first + (count - 1)[1:]),
                    self.failed.eq(count == 0),
                    self.done.eq(1),
                ]
                m.next = "Done"
            with m.State("Done"):
                pass
        return m
