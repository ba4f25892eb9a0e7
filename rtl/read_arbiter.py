"""Shares the read channels of the port to external memory between the program reader and the fetcher."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out

from hwattn.rtl.axi import axi_port
from hwattn.spec.config import AcceleratorConfig

OWED = 32
"""Bursts that may be owed: more than both clients ask for."""


class ReadArbiter(Component):
    """Passes addresses on, those of the program first, and gives each client the words of its bursts, which come in order.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    program, fetch : In(axi_port(config))
        Clients; only their read channels are used.
    axi : Out(axi_port(config))
        Only the read channels are used here.

    Latency
    -------
    None: addresses and words pass in the cycle in which they come.

    Bit accuracy
    ------------
    Changes no data.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        port = axi_port(config)
        super().__init__({"program": In(port), "fetch": In(port), "axi": Out(port)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, clients = self.axi, (self.fetch, self.program)
        m.submodules.owners = owners = SyncFIFO(width=1, depth=OWED)
        waiting, before, chosen = Signal(), Signal(), Signal()
        # an address that is on offer must stay
        m.d.comb += chosen.eq(Mux(waiting, before, self.program.arvalid))
        m.d.sync += [waiting.eq(axi.arvalid & ~axi.arready), before.eq(chosen)]
        m.d.comb += [
            axi.arvalid.eq(Mux(chosen, self.program.arvalid, self.fetch.arvalid) & owners.w_rdy),
            axi.araddr.eq(Mux(chosen, self.program.araddr, self.fetch.araddr)),
            axi.arlen.eq(Mux(chosen, self.program.arlen, self.fetch.arlen)),
            owners.w_en.eq(axi.arvalid & axi.arready),
            owners.w_data.eq(chosen),
            axi.rready.eq(owners.r_rdy & Mux(owners.r_data, self.program.rready, self.fetch.rready)),
            owners.r_en.eq(axi.rvalid & axi.rready & axi.rlast),
        ]
        for number, client in enumerate(clients):
            m.d.comb += [
                client.arready.eq(axi.arready & owners.w_rdy & (chosen == number)),
                client.rvalid.eq(axi.rvalid & owners.r_rdy & (owners.r_data == number)),
                client.rdata.eq(axi.rdata),
                client.rresp.eq(axi.rresp),
                client.rlast.eq(axi.rlast),
            ]
        return m
