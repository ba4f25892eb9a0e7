"""Bursts of short words as bursts of longer ones: between the machine's AXI4 port and a memory whose transfers are longer than a word."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hwattn.rtl.axi import axi_port
from hwattn.spec.config import AcceleratorConfig

READS_WAITING = 4
"""Read bursts whose words have not all been taken."""


class AxiWidener(Component):
    """Asks for the long words that a burst's words lie in; of those that are written in part the other bytes are masked.

    Parameters
    ----------
    config : AcceleratorConfig
        Its `lanes` are the bytes of a short word.
    wide : AcceleratorConfig
        Its `lanes` are those of a long word, a multiple.

    Members
    -------
    narrow : In(axi_port(config))
        Incrementing bursts of whole words that cross no page.
    wide : Out(axi_port(wide))

    Latency
    -------
    None for addresses and for words that are read. A long word is written one cycle after its last short one has come.
    """

    def __init__(self, config: AcceleratorConfig, wide: AcceleratorConfig) -> None:
        self.config = config
        self.lanes = wide.lanes
        super().__init__({"narrow": In(axi_port(config)), "wide": Out(axi_port(wide))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift, bits = exact_log2(self.config.lanes), exact_log2(self.lanes // self.config.lanes)
        self._read(m, shift, bits)
        self._write(m, shift, bits)
        return m

    def _read(self, m: Module, shift: int, bits: int) -> None:
        """Pass read addresses on, and take the short words out of what comes back."""
        narrow, wide = self.narrow, self.wide
        burst = data.StructLayout({"first": bits, "length": 8})
        m.submodules.bursts = bursts = SyncFIFO(width=burst.size, depth=READS_WAITING)
        asked, current = Signal(burst), data.View(burst, bursts.r_data)
        taken = Signal(9)
        place = Signal(9 + bits)
        m.d.comb += [
            asked.first.eq(narrow.araddr >> shift),
            asked.length.eq(narrow.arlen),
            wide.araddr.eq(narrow.araddr & ~(self.lanes - 1)),
            wide.arlen.eq((asked.first + asked.length) >> bits),
            wide.arvalid.eq(narrow.arvalid & bursts.w_rdy),
            narrow.arready.eq(wide.arready & bursts.w_rdy),
            bursts.w_data.eq(asked),
            bursts.w_en.eq(narrow.arvalid & narrow.arready),
            place.eq(current.first + taken),
            narrow.rvalid.eq(wide.rvalid & bursts.r_rdy),
            narrow.rdata.eq(wide.rdata.word_select(place[:bits], 8 * self.config.lanes)),
            narrow.rresp.eq(wide.rresp),
            narrow.rlast.eq(taken == current.length),
        ]
        with m.If(narrow.rvalid & narrow.rready):
            m.d.comb += [
                bursts.r_en.eq(narrow.rlast),
                wide.rready.eq(narrow.rlast | place[:bits].all()),
            ]
            m.d.sync += taken.eq(Mux(narrow.rlast, 0, taken + 1))

    def _write(self, m: Module, shift: int, bits: int) -> None:
        """Gather a burst's words into long ones, with a strobe for each byte."""
        narrow, wide = self.narrow, self.wide
        active, last_taken = Signal(), Signal()
        word = Signal(bits)
        first = Signal(bits)
        m.d.comb += [
            first.eq(narrow.awaddr >> shift),
            wide.awaddr.eq(narrow.awaddr & ~(self.lanes - 1)),
            wide.awlen.eq((first + narrow.awlen) >> bits),
            wide.awvalid.eq(narrow.awvalid & ~active),
            narrow.awready.eq(wide.awready & ~active),
            narrow.wready.eq(active & ~last_taken & (~wide.wvalid | wide.wready)),
            narrow.bvalid.eq(wide.bvalid),
            narrow.bresp.eq(wide.bresp),
            wide.bready.eq(narrow.bready),
        ]
        with m.If(narrow.awvalid & narrow.awready):
            m.d.sync += [active.eq(1), last_taken.eq(0), word.eq(first)]
        with m.If(wide.wvalid & wide.wready):
            m.d.sync += [wide.wvalid.eq(0), wide.wstrb.eq(0)]
        with m.If(narrow.wvalid & narrow.wready):
            m.d.sync += [
                wide.wdata.word_select(word, 8 * self.config.lanes).eq(narrow.wdata),
                wide.wstrb.word_select(word, self.config.lanes).eq(narrow.wstrb),
                wide.wvalid.eq(narrow.wlast | word.all()),
                wide.wlast.eq(narrow.wlast),
                last_taken.eq(narrow.wlast),
                word.eq(word + 1),
            ]
        with m.If(narrow.bvalid & narrow.bready):
            m.d.sync += active.eq(0)
