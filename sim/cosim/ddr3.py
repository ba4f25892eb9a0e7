"""A DDR3 chip in simulation, as its pins look from the machine's clock."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hwattn.rtl.ddr3_pins import ddr3_pins
from hwattn.sim.cosim.chip_pins import registered
from hwattn.spec.ddr3 import LATENCY, STEPS, Ddr3, Ddr3Timing

DELAY = 130
"""From the clock's edge to read data, there and back, in 64ths of a cycle: about what the pins of an ECP5 take, counted at 25 MHz."""

SMALL_AT_25_MHZ = Ddr3(row_bits=11, reset_us=1.0, clock_us=2.0).at(25.0)
"""The chip of `boards.orangecrab` but for the number of its rows and the pauses at the start, which no simulation should wait for."""


class Ddr3Chip(wiring.Component):
    """``ddr3_chip.v`` behind registers, which are less than what a board's pins take; `DELAY` is the rest.

    Parameters
    ----------
    timing : Ddr3Timing
        The chip stops the simulation where these times are not kept.

    Members
    -------
    pins : In(ddr3_pins(timing.chip))
    """

    def __init__(self, timing: Ddr3Timing) -> None:
        self.timing = timing
        super().__init__({"pins": In(ddr3_pins(timing.chip))})

    def elaborate(self, platform: object) -> Module:
        """Put the registers before and behind the chip."""
        m = Module()
        timing, chip, pins = self.timing, self.timing.chip, self.pins
        names = {"output": "written"}
        behind, arriving = registered(m, pins)
        m.submodules.chip = Instance(
            "ddr3_chip",
            p_BANK_BITS=chip.bank_bits,
            p_ROW_BITS=chip.row_bits,
            p_COLUMN_BITS=chip.column_bits,
            p_PIN_BYTES=chip.pin_bytes,
            p_STEPS=STEPS,
            p_LATENCY=LATENCY,
            p_DELAY=DELAY,
            p_RESET=timing.reset,
            p_CLOCK=timing.clock,
            p_XPR=timing.xpr,
            p_MRD=timing.mrd,
            p_MOD=timing.mod,
            p_ZQ=timing.zq,
            p_RCD=timing.rcd,
            p_RP=timing.rp,
            p_RAS=timing.ras,
            p_RC=timing.rc,
            p_RFC=timing.rfc,
            p_WR=timing.wr,
            p_RRD=timing.rrd,
            p_FAW=timing.faw,
            p_RTP=timing.rtp,
            p_WTR=timing.wtr,
            p_REFRESH=timing.refresh,
            i_clk=ClockSignal(),
            o_read=arriving,
            **{f"i_{names.get(name, name)}": signal for name, signal in behind.items()},
        )
        return m
