"""The storer: writes words of the activation memory to external memory."""

from __future__ import annotations

from amaranth.hdl import Assert, Module, Signal
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out

from hwattn.rtl.axi import ADDRESS_BITS, LENGTH_BITS, PAGE_BITS, BurstCutter, Watch, axi_port, byte_address
from hwattn.rtl.commands import command_stream
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, read_port
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Store
from hwattn.spec.registers import ErrorCause

WORDS_AHEAD = 8
"""Words read and not yet sent."""

BURSTS_OWED = 4
"""Bursts whose acknowledgement may be outstanding."""


class Storer(Component):
    """Writes one burst after the other, and ends when the memory has acknowledged all.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In(command_stream(Store))
    done, busy : Out(1)
    axi : Out(axi_port(config))
        Only the write channels are used here.
    act : Out(read_port(config))
    page : In(28), limit : In(32)
        Where external memory starts, in pages of 4 KiB; cycles without progress that are a fault.
    abort : In(1)
        Drop the command. A burst that has begun is ended, as the protocol demands, and no command is accepted until then.
    fault : Out(4)
        Cause of error, or 0.
    beat : Out(1)
        A word has gone.

    Latency
    -------
    Per burst three cycles, a word per cycle as far as the memory takes them, and at the end the last acknowledgement.

    Bit accuracy
    ------------
    ``hwattn.sim.model.external.store``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(command_stream(Store)),
                "done": Out(1),
                "busy": Out(1),
                "axi": Out(axi_port(config)),
                "act": Out(read_port(config)),
                "page": In(ADDRESS_BITS - PAGE_BITS),
                "limit": In(32),
                "abort": In(1),
                "fault": Out(4),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cutter = cutter = BurstCutter(self.config)
        m.submodules.watch = watch = Watch()
        m.submodules.words = words = SyncFIFO(width=8 * self.config.lanes, depth=WORDS_AHEAD)
        payload, axi = self.command.payload, self.axi
        source, run_source = Signal(WORD_ADDRESS_BITS), Signal(WORD_ADDRESS_BITS)
        source_stride = Signal.like(payload.source_stride)
        to_read, to_send = Signal(LENGTH_BITS), Signal(LENGTH_BITS)
        owed = Signal(range(BURSTS_OWED + 1))
        active, sending, dropping = Signal(), Signal(), Signal()
        m.d.comb += [
            self.command.ready.eq(~self.busy & ~self.abort),
            self.busy.eq(active | sending | owed.any()),
            cutter.start.eq(self.command.valid & self.command.ready),
            cutter.address.eq(payload.target),
            cutter.stride.eq(payload.target_stride),
            cutter.words.eq(payload.words),
            cutter.runs.eq(payload.runs),
            cutter.stop.eq(self.abort),
        ]
        with m.If(cutter.start):
            m.d.sync += [active.eq(1), run_source.eq(payload.source), source_stride.eq(payload.source_stride)]

        # A burst begins when the one before has been sent
        m.d.comb += cutter.take.eq(cutter.valid & ~sending & (owed != BURSTS_OWED) & ~self.abort)
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(cutter.take):
            m.d.sync += [
                sending.eq(1),
                to_read.eq(cutter.burst_words),
                to_send.eq(cutter.burst_words),
                axi.awvalid.eq(1),
                axi.awaddr.eq(byte_address(self.config, self.page, cutter.burst_address)),
                axi.awlen.eq(cutter.burst_words - 1),
            ]
            with m.If(cutter.first_of_run):
                m.d.sync += [source.eq(run_source), run_source.eq(run_source + source_stride)]
            m.d.sync += Assert(
                cutter.burst_address + cutter.burst_words <= self.config.external_words,
                "store beyond external memory",
            )

        # Read ahead, send
        asked = Signal()
        sent, answered = Signal(), Signal()
        m.d.comb += [
            self.act.request.valid.eq(to_read.any() & (words.level + asked < WORDS_AHEAD)),
            self.act.request.payload.eq(source),
            words.w_en.eq(self.act.valid),
            words.w_data.eq(self.act.data),
            axi.wvalid.eq(words.r_rdy),
            axi.wdata.eq(words.r_data),
            axi.wlast.eq(to_send == 1),
            sent.eq(axi.wvalid & axi.wready),
            words.r_en.eq(sent),
            answered.eq(axi.bvalid & axi.bready),
            self.beat.eq(sent),
        ]
        m.d.sync += asked.eq(self.act.request.valid & self.act.request.ready)
        with m.If(self.act.request.valid & self.act.request.ready):
            m.d.sync += [source.eq(source + 1), to_read.eq(to_read - 1)]
        with m.If(sent):
            m.d.sync += to_send.eq(to_send - 1)
        # the address may still be on offer when the data has gone
        with m.If(sending & (to_send == 0) & ~axi.awvalid):
            m.d.sync += sending.eq(0)
        m.d.sync += owed.eq(owed + cutter.take - answered)
        with m.If(active & ~cutter.busy & ~sending & ~owed.any()):
            m.d.comb += self.done.eq(~dropping)
            m.d.sync += active.eq(0)

        # Faults
        with m.If(self.abort):
            m.d.sync += dropping.eq(1)
        with m.Elif(~self.busy):
            m.d.sync += dropping.eq(0)
        m.d.comb += [
            watch.pending.eq(sending | owed.any()),
            watch.progress.eq(sent | answered | (axi.awvalid & axi.awready) | self.act.valid),
            watch.limit.eq(self.limit),
        ]
        with m.If(watch.expired):
            m.d.comb += self.fault.eq(ErrorCause.BUS_TIMEOUT)
        with m.Elif(answered & axi.bresp[1] & ~dropping):
            m.d.comb += self.fault.eq(ErrorCause.BUS_WRITE)
        return m
