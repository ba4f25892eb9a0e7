"""A controller for single-data-rate SDRAM: the machine's AXI4 port on one side, the chip's pins on the other."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib.wiring import Component, In, Out, flipped

from hwattn.rtl.axi import axi_port
from hwattn.rtl.sdram_bursts import SdramReader, SdramWriter, split_channels, take_turns
from hwattn.rtl.sdram_pins import sdram_pins, sdram_power_up
from hwattn.rtl.sdram_sequencer import SdramSequencer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.sdram import SdramTiming


class SdramController(Component):
    """Reads and writes bursts of words, a column in each cycle within a row, and refreshes the chip on time.

    Reads and writes take turns by bursts where both wait, and word by word where one of them cannot go on: a read whose words are not taken
    never holds up a write, nor the other way round. One row of each bank stays open until another one is wanted.

    Parameters
    ----------
    config : AcceleratorConfig
        Its `lanes` are the bytes of a word.
    timing : SdramTiming

    Members
    -------
    axi : In(axi_port(config))
        Incrementing bursts of whole words that cross no page. A burst beyond the chip is answered with SLVERR and writes nothing. Where the
        chip has no pins to mask bytes, a column is written only whole: a part of one is not written, and answered with SLVERR.
    pins : Out(sdram_pins(timing.chip))

    Latency
    -------
    ``SdramTiming.external_memory``; after a reset first `timing.power_up` cycles, and ten commands.

    Bit accuracy
    ------------
    A memory: what was written last is read, byte by byte.
    """

    def __init__(self, config: AcceleratorConfig, timing: SdramTiming) -> None:
        self.config = config
        self.timing = timing
        super().__init__({"axi": In(axi_port(config)), "pins": Out(sdram_pins(timing.chip))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, timing = self.config.lanes, self.timing
        m.submodules.reader = reader = SdramReader(self.config, timing)
        m.submodules.writer = writer = SdramWriter(self.config, timing)
        m.submodules.sequencer = sequencer = SdramSequencer(
            timing, sdram_power_up(timing), timing.columns(lanes), timing.refresh_period(lanes)
        )
        pins = self.pins
        split_channels(m, flipped(self.axi), reader, writer)
        writes = take_turns(m, reader, writer, sequencer)
        m.d.comb += [
            pins.command.eq(sequencer.command),
            pins.bank.eq(sequencer.bank),
            pins.address.eq(sequencer.address),
            pins.output.eq(writer.data),
            pins.drive.eq(sequencer.issue & writes & ~writer.nowhere & ~writer.skip),
            reader.column.eq(pins.input),
        ]
        if timing.chip.masked:
            m.d.comb += pins.mask.eq(Mux(pins.drive, writer.mask, Mux(sequencer.running, 0, ~0)))
        return m
