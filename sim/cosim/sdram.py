"""An SDRAM chip in simulation, with the flip-flops that a board's pins have."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hwattn.rtl.sdram_pins import sdram_pins
from hwattn.sim.cosim.chip_pins import registered
from hwattn.spec.sdram import Sdram, SdramTiming

ULX3S_AT_25_MHZ = Sdram(power_up_us=4.0).at(25.0)
"""The times of `boards.ulx3s` at its clock, but for the pause at the start, which no simulation should wait for."""


class SdramChip(wiring.Component):
    """``sdram_chip.v`` behind registered pins, on the inverted clock.

    Parameters
    ----------
    timing : SdramTiming
        The chip stops the simulation where these times are not kept.

    Members
    -------
    pins : In(sdram_pins(timing.chip))
    """

    def __init__(self, timing: SdramTiming) -> None:
        self.timing = timing
        super().__init__({"pins": In(sdram_pins(timing.chip))})

    def elaborate(self, platform: object) -> Module:
        """Put the flip-flops before and behind the chip."""
        m = Module()
        timing, chip, pins = self.timing, self.timing.chip, self.pins
        behind, arriving = registered(m, pins)
        m.submodules.chip = Instance(
            "sdram_chip",
            p_BANK_BITS=chip.bank_bits,
            p_ROW_BITS=chip.row_bits,
            p_COLUMN_BITS=chip.column_bits,
            p_DATA_BYTES=chip.data_bytes,
            p_CAS_LATENCY=chip.cas_latency,
            p_POWER_UP=timing.power_up,
            p_RCD=timing.rcd,
            p_RP=timing.rp,
            p_RAS=timing.ras,
            p_RC=timing.rc,
            p_RFC=timing.rfc,
            p_WR=timing.wr,
            p_MRD=timing.mrd,
            p_REFRESH=timing.refresh,
            i_clk=~ClockSignal(),
            i_command=behind["command"],
            i_bank=behind["bank"],
            i_address=behind["address"],
            i_mask=behind["mask"] if chip.masked else 0,
            i_drive=behind["drive"],
            i_written=behind["output"],
            o_read=arriving,
        )
        return m
