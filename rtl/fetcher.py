"""The fetcher: prefetches words from external memory into the weight buffer, the activation memory and the memories of parameters."""

from __future__ import annotations

from amaranth.hdl import Assert, Module, Mux, Signal, Value
from amaranth.lib import data, fifo
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import exact_log2

from hwattn.rtl.axi import ADDRESS_BITS, LENGTH_BITS, PAGE_BITS, BurstCutter, Watch, axi_port, byte_address
from hwattn.rtl.commands import command_stream
from hwattn.rtl.entries import EntryWriter, entry_ports
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, write_port
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import fields
from hwattn.spec.entries import ENTRY_BYTES
from hwattn.spec.isa import Fetch, Memory
from hwattn.spec.registers import ErrorCause

MEMORY_BITS = next(field.bits for field in fields(Fetch) if field.name == "memory")
BURSTS = 16
"""Bursts that are asked for and not yet complete: they hide the memory's latency."""


class Fetcher(Component):
    """Asks for bursts ahead of their data, across commands, and writes what comes where it belongs.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In(command_stream(Fetch))
        Accepted while earlier commands still receive data.
    done, busy : Out(1)
        Every word of the oldest command has been written; something is under way.
    axi : Out(axi_port(config))
        Only the read channels are used here.
    act_write, weight_write : Out(write_port(config))
    param_write, norm_write : Out(entry_write)
        Whole entries; always taken.
    page : In(28), limit : In(32)
        Where external memory starts, in pages of 4 KiB; cycles without progress that are a fault.
    abort : In(1)
        Drop all commands. What the memory still owes is taken and thrown away, and no command is accepted until it has come.
    fault : Out(4)
        Cause of error, or 0.
    beat : Out(1)
        A word has come.

    Latency
    -------
    Address of the first burst four cycles after acceptance; then as the memory answers, one word per cycle at most; `done` in the cycle of
    the last word. A word of entries is taken when its last 32-bit unit is: one unit per cycle. A burst holds up to 256 words and 4 KiB; one address can go out every two cycles, up to 16 bursts ahead.

    Bit accuracy
    ------------
    ``hwattn.sim.model.external.fetch``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(command_stream(Fetch)),
                "done": Out(1),
                "busy": Out(1),
                "axi": Out(axi_port(config)),
                "act_write": Out(write_port(config)),
                "weight_write": Out(write_port(config)),
                **{name: Out(port) for name, port in entry_ports().items()},
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
        segment = data.StructLayout(
            {"target": WORD_ADDRESS_BITS, "words": LENGTH_BITS, "memory": MEMORY_BITS, "last": 1}
        )
        m.submodules.segments = segments = fifo.SyncFIFO(width=segment.size, depth=BURSTS)
        coming = data.View(segment, segments.r_data)
        payload = self.command.payload
        target, run_target = Signal(WORD_ADDRESS_BITS), Signal(WORD_ADDRESS_BITS)
        target_stride, memory = Signal.like(payload.target_stride), Signal.like(payload.memory)
        source = Signal(len(payload.source))
        accepted, begin, dropping = Signal(), Signal(), Signal()

        # Commands: the expert's place is multiplied out in the cycle after
        m.d.comb += [
            self.command.ready.eq(~cutter.busy & ~begin & ~dropping & ~self.abort),
            accepted.eq(self.command.valid & self.command.ready),
            cutter.start.eq(begin & ~self.abort),
            cutter.address.eq(source),
            cutter.stop.eq(self.abort),
        ]
        m.d.sync += begin.eq(accepted)
        with m.If(accepted):
            m.d.sync += [
                source.eq(payload.source + payload.expert * payload.expert_stride),
                cutter.words.eq(payload.words),
                cutter.runs.eq(payload.runs),
                cutter.stride.eq(payload.source_stride),
                run_target.eq(payload.target),
                target_stride.eq(payload.target_stride),
                memory.eq(payload.memory),
            ]

        # Addresses: a burst is noted when it goes into the address register
        axi = self.axi
        here = Signal(WORD_ADDRESS_BITS)
        entry = Signal(segment)
        m.d.comb += [
            here.eq(Mux(cutter.first_of_run, run_target, target)),
            cutter.take.eq(cutter.valid & segments.w_rdy & (~axi.arvalid | axi.arready) & ~self.abort),
            entry.target.eq(here),
            entry.words.eq(cutter.burst_words),
            entry.memory.eq(memory),
            entry.last.eq(cutter.last),
            segments.w_data.eq(entry.as_value()),
            segments.w_en.eq(cutter.take),
        ]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(cutter.take):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(byte_address(self.config, self.page, cutter.burst_address)),
                axi.arlen.eq(cutter.burst_words - 1),
                target.eq(
                    here + Mux(_holds_entries(memory), self._entries(cutter.burst_words), cutter.burst_words)
                ),
            ]
            with m.If(cutter.first_of_run):
                m.d.sync += run_target.eq(run_target + target_stride)
            m.d.sync += Assert(
                cutter.burst_address + cutter.burst_words <= self.config.external_words,
                "fetch beyond external memory",
            )

        # Data
        position = Signal(LENGTH_BITS)
        m.submodules.entries = entries = EntryWriter(self.config)
        to_act, to_entries = coming.memory == Memory.ACT, _holds_entries(coming.memory)
        last_word = position + 1 == coming.words
        write = self.act_write.payload
        m.d.comb += [
            axi.rready.eq(
                segments.r_rdy
                & (dropping | Mux(to_entries, entries.word.ready, ~to_act | self.act_write.ready))
            ),
            entries.word.valid.eq(axi.rvalid & segments.r_rdy & to_entries & ~dropping),
            entries.word.payload.eq(axi.rdata),
            entries.first.eq(coming.target),
            entries.last.eq(last_word),
            entries.norm.eq(coming.memory == Memory.NORM),
            entries.stop.eq(dropping),
            self.beat.eq(axi.rvalid & axi.rready),
            self.act_write.valid.eq(axi.rvalid & segments.r_rdy & to_act & ~dropping),
            self.weight_write.valid.eq(
                axi.rvalid & segments.r_rdy & (coming.memory == Memory.WEIGHT) & ~dropping
            ),
            write.addr.eq(coming.target + position),
            write.data.eq(axi.rdata),
            write.mask.eq(~0),
            self.weight_write.payload.eq(write),
            segments.r_en.eq(self.beat & last_word),
            self.done.eq(segments.r_en & coming.last & ~dropping),
            self.busy.eq(begin | cutter.busy | segments.r_rdy),
        ]
        for name in entry_ports():
            connect(m, getattr(entries, name), flipped(getattr(self, name)))
        with m.If(self.beat):
            m.d.sync += position.eq(Mux(last_word, 0, position + 1))
            m.d.sync += Assert(axi.rlast == last_word, "a burst of another length than asked for")

        # Faults
        m.d.comb += [
            watch.pending.eq(segments.r_rdy | axi.arvalid),
            watch.progress.eq(self.beat),
            watch.limit.eq(self.limit),
        ]
        with m.If(self.abort):
            m.d.sync += dropping.eq(1)
        with m.Elif(~segments.r_rdy & ~axi.arvalid):
            m.d.sync += dropping.eq(0)
        with m.If(watch.expired):
            m.d.comb += self.fault.eq(ErrorCause.BUS_TIMEOUT)
        with m.Elif(self.beat & axi.rresp[1] & ~dropping):
            m.d.comb += self.fault.eq(ErrorCause.BUS_READ)
        return m

    def _entries(self, words: Value) -> Value:
        """Entries that so many words hold."""
        return (words * self.config.lanes) >> exact_log2(ENTRY_BYTES)


def _holds_entries(memory: Value) -> Value:
    return (memory == Memory.PARAM) | (memory == Memory.NORM)
