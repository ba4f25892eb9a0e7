"""The host's way to external memory: one word at a time, through the machine's AXI4 port while the machine is at rest."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, Signature

from hwattn.rtl.axi import ADDRESS_BITS, PAGE_BITS, Watch, axi_port, byte_address
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import EXTERNAL_ADDRESS_BITS


def external_access_port(config: AcceleratorConfig) -> Signature:
    """Return the client's side: a request for one word, and its end.

    `request` is a stream of ``write``, the external ``word``, its ``data`` and a bit of ``mask`` for each byte to be written. `done` is
    high for one cycle some time later, also where nothing was done; `data`, the word that was read, or 0, stays until the next `done`.
    """
    lanes = config.lanes
    layout = data.StructLayout({"write": 1, "word": EXTERNAL_ADDRESS_BITS, "data": 8 * lanes, "mask": lanes})
    return Signature({"request": Out(stream.Signature(layout)), "done": In(1), "data": In(8 * lanes)})


class ExternalAccess(Component):
    """Reads and writes single words of external memory for the host.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    port : In(external_access_port(config))
    axi : Out(axi_port(config))
    rest : In(1)
        The machine stands still, and nothing is owed to its own units. Else a request ends at once: nothing is written, and 0 is read.
    page : In(28), limit : In(32)
        As of the `Fetcher`.
    busy : Out(1)
        The port is in use here.

    Latency
    -------
    Two cycles and the memory's own. After `limit` cycles without an answer the request ends as if refused, and so do all others until that
    answer has come.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": In(external_access_port(config)),
                "axi": Out(axi_port(config)),
                "rest": In(1),
                "page": In(ADDRESS_BITS - PAGE_BITS),
                "limit": In(32),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.watch = watch = Watch()
        axi, port, asked = self.axi, self.port, self.port.request.payload
        accepted, answered, abandoned = Signal(), Signal(), Signal()
        address = byte_address(self.config, self.page, asked.word)
        m.d.comb += [
            port.request.ready.eq(~self.busy | abandoned),
            accepted.eq(port.request.valid & port.request.ready),
            axi.rready.eq(1),
            axi.wlast.eq(1),
            answered.eq(axi.rvalid | axi.bvalid),
            watch.pending.eq(self.busy),
            watch.progress.eq(answered),
            watch.limit.eq(self.limit),
        ]
        m.d.sync += port.done.eq(0)
        for valid, ready in (
            (axi.arvalid, axi.arready),
            (axi.awvalid, axi.awready),
            (axi.wvalid, axi.wready),
        ):
            with m.If(ready):
                m.d.sync += valid.eq(0)
        with m.If(self.busy & answered):
            m.d.sync += [self.busy.eq(0), abandoned.eq(0)]
            with m.If(~abandoned):
                m.d.sync += [port.done.eq(1), port.data.eq(Mux(axi.rvalid & ~axi.rresp[1], axi.rdata, 0))]
        with m.Elif(self.busy & watch.expired & ~abandoned):
            m.d.sync += [abandoned.eq(1), port.done.eq(1), port.data.eq(0)]
        with m.If(accepted):
            with m.If(self.rest & ~self.busy):
                m.d.sync += [
                    self.busy.eq(1),
                    axi.arvalid.eq(~asked.write),
                    axi.awvalid.eq(asked.write),
                    axi.wvalid.eq(asked.write),
                    axi.araddr.eq(address),
                    axi.awaddr.eq(address),
                    axi.wdata.eq(asked.data),
                    axi.wstrb.eq(asked.mask),
                ]
            with m.Else():
                m.d.sync += [port.done.eq(1), port.data.eq(0)]
        return m
