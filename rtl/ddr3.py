"""A controller for DDR3 without DLL: the machine's AXI4 port on one side, what the chip's pins carry in each cycle on the other."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hwattn.rtl.axi import axi_port
from hwattn.rtl.axi_widener import AxiWidener
from hwattn.rtl.ddr3_data import Ddr3Input, Ddr3Output
from hwattn.rtl.ddr3_pins import ddr3_pins, ddr3_power_up
from hwattn.rtl.ddr3_training import Ddr3Training
from hwattn.rtl.sdram_bursts import SdramReader, SdramWriter, split_channels, take_turns
from hwattn.rtl.sdram_sequencer import SdramSequencer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.ddr3 import Ddr3Timing


class Ddr3Controller(Component):
    """As `SdramController`, with bursts of eight transfers in the place of columns; after power-up it finds out when data come.

    Parameters
    ----------
    config : AcceleratorConfig
        Its `lanes` are the bytes of a word.
    timing : Ddr3Timing

    Members
    -------
    axi : In(axi_port(config))
        Incrementing bursts of whole words that cross no page. A burst beyond the chip is answered with SLVERR and writes nothing; so are all
        where the training has failed.
    pins : Out(ddr3_pins(timing.chip))

    Latency
    -------
    ``Ddr3Timing.external_memory``; after a reset first the chip's power-up and the training, of about 6,000 cycles.

    Bit accuracy
    ------------
    A memory: what was written last is read, byte by byte. The training writes the last burst.
    """

    def __init__(self, config: AcceleratorConfig, timing: Ddr3Timing) -> None:
        self.config = config
        self.timing = timing
        super().__init__({"axi": In(axi_port(config)), "pins": Out(ddr3_pins(timing.chip))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timing, pins = self.timing, self.pins
        wide = self.config.replace(lanes=max(self.config.lanes, timing.chip.data_bytes))
        m.submodules.reader = reader = SdramReader(wide, timing)
        m.submodules.writer = writer = SdramWriter(wide, timing)
        m.submodules.sequencer = sequencer = SdramSequencer(
            timing,
            ddr3_power_up(timing),
            timing.columns(wide.lanes),
            timing.refresh_period(wide.lanes),
        )
        m.submodules.output = output = Ddr3Output(timing.chip)
        m.submodules.input = gather = Ddr3Input(timing.chip)
        m.submodules.training = training = Ddr3Training(timing)
        axi = flipped(self.axi)
        if wide.lanes != self.config.lanes:
            m.submodules.widener = widener = AxiWidener(self.config, wide)
            connect(m, axi, widener.narrow)
            axi = widener.wide
        split_channels(m, axi, reader, writer)
        take_turns(m, reader, writer, sequencer)
        sent = sequencer.issue & ~sequencer.nowhere & ~sequencer.skip
        with m.If(~training.done):
            m.d.comb += [
                sequencer.wanted.eq(training.wanted),
                sequencer.writes.eq(training.writes),
                sequencer.place.eq(~0),
                sequencer.nowhere.eq(0),
                sequencer.skip.eq(0),
                training.issue.eq(sequencer.issue),
                *(getattr(unit, name).eq(0) for unit in (reader, writer) for name in ("issue", "last")),
            ]
        m.d.comb += [
            reader.lost.eq(training.failed),
            writer.lost.eq(training.failed),
            training.running.eq(sequencer.running),
            training.burst.eq(gather.burst),
            gather.moment.eq(training.moment),
            gather.input.eq(pins.input),
            reader.column.eq(gather.burst),
            output.write.eq(sent & sequencer.writes),
            output.burst.eq(Mux(training.done, writer.data, training.pattern)),
            output.burst_mask.eq(Mux(training.done, writer.mask, 0)),
            *(
                getattr(pins, name).eq(getattr(unit, name))
                for unit, names in (
                    (sequencer, ("released", "enabled", "command", "bank", "address")),
                    (output, ("output", "mask", "drive", "strobe")),
                )
                for name in names
            ),
        ]
        return m
