"""Reads the program from external memory, ahead of the dispatcher."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, ResetInserter, Signal
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out

from hwattn.rtl.axi import ADDRESS_BITS, LENGTH_BITS, PAGE_BITS, Watch, axi_port, byte_address
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import INSTRUCTION_BITS, PC_BITS
from hwattn.spec.registers import ErrorCause


class ProgramReader(Component):
    """Keeps up to `program_words` instructions that come next, and asks for the next burst when it has room for all of it.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    run : In(1), pc : In(16)
        While `run` is high instructions are read, from the one at `pc` on; what was read before is thrown away when it ends.
    instruction : Out(stream.Signature(256))
    axi : Out(axi_port(config))
        Only the read channels are used here.
    page : In(28), limit : In(32)
        As of the `Fetcher`.
    busy : Out(1)
        The memory owes words.
    fault : Out(4)
        Cause of error, or 0.
    beat : Out(1)
        A word has come.

    Latency
    -------
    Two cycles from `run` to the first address, one burst at a time (`AcceleratorConfig.program_burst` instructions, to their next
    multiple); an instruction is there three cycles after its last word, the next address goes out one cycle after a burst's last word.

    Bit accuracy
    ------------
    Instruction i is bytes 32 * i to 32 * i + 31 of external memory.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "run": In(1),
                "pc": In(PC_BITS),
                "instruction": Out(stream.Signature(INSTRUCTION_BITS)),
                "axi": Out(axi_port(config)),
                "page": In(ADDRESS_BITS - PAGE_BITS),
                "limit": In(32),
                "busy": Out(1),
                "fault": Out(4),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, axi = self.config, self.axi
        burst, depth = config.program_burst, config.program_words
        stop = Signal()
        m.d.comb += stop.eq(~self.run)
        # one more than it ever holds: a word on its way to the output has a place of its own
        fifo = SyncFIFOBuffered(width=INSTRUCTION_BITS, depth=depth + 1)
        m.submodules.fifo = ResetInserter(stop)(fifo)
        m.submodules.watch = watch = Watch()
        following = Signal(PC_BITS + 1)
        count, room = Signal(range(burst + 1)), Signal(range(depth + 1), init=depth)
        ask, dropping, skip = Signal(), Signal(), Signal()
        m.d.comb += [
            count.eq(burst - following % burst),
            self.instruction.payload.eq(fifo.r_data),
            self.instruction.valid.eq(fifo.r_rdy & self.run),
            fifo.r_en.eq(self.instruction.valid & self.instruction.ready),
            self.beat.eq(axi.rvalid & axi.rready),
        ]
        with m.If(stop):
            m.d.sync += room.eq(depth)
        with m.Else():
            m.d.sync += room.eq(room + fifo.r_en - ask * count)

        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.sync += [following.eq(self.pc), skip.eq(self.pc[0])]
                with m.If(self.run):
                    m.next = "Ask"
            with m.State("Ask"):
                with m.If(stop):
                    m.next = "Idle"
                with m.Elif((room >= count) & (following < config.program_capacity)):
                    first = following * (INSTRUCTION_BITS // 8) // config.lanes
                    behind = (following + count) * (INSTRUCTION_BITS // 8) // config.lanes
                    m.d.comb += ask.eq(1)
                    m.d.sync += [
                        axi.arvalid.eq(1),
                        axi.araddr.eq(byte_address(config, self.page, first)),
                        axi.arlen.eq((behind - first - 1)[: LENGTH_BITS - 1]),
                        following.eq(following + count),
                    ]
                    m.next = "Receive"
            with m.State("Receive"):
                m.d.sync += dropping.eq(dropping | stop)
                with m.If(axi.arready):
                    m.d.sync += axi.arvalid.eq(0)
                with m.If(self.beat & axi.rlast):
                    m.d.sync += dropping.eq(0)
                    m.next = "Ask"
                    with m.If(stop | dropping):
                        m.next = "Idle"
        wanted = self.run & ~dropping
        self._assemble(m, fifo, wanted, skip)
        m.d.comb += [
            self.busy.eq(fsm.ongoing("Receive")),
            watch.pending.eq(self.busy),
            watch.progress.eq(self.beat | (axi.arvalid & axi.arready)),
            watch.limit.eq(self.limit),
        ]
        with m.If(watch.expired):
            m.d.comb += self.fault.eq(ErrorCause.BUS_TIMEOUT)
        with m.Elif(self.beat & axi.rresp[1] & wanted):
            m.d.comb += self.fault.eq(ErrorCause.BUS_READ)
        return m

    def _assemble(self, m: Module, fifo: SyncFIFOBuffered, wanted: Signal, skip: Signal) -> None:
        """Put instructions together from words, or take words apart; the lower half of a first word may belong to the one before."""
        bits, axi = 8 * self.config.lanes, self.axi
        taken = Signal()
        m.d.comb += taken.eq(axi.rvalid & axi.rready)
        if bits > INSTRUCTION_BITS:
            half = Signal()
            halves = Array([axi.rdata[:INSTRUCTION_BITS], axi.rdata[INSTRUCTION_BITS:]])
            m.d.comb += [
                axi.rready.eq(half | ~wanted),
                fifo.w_data.eq(halves[half]),
                fifo.w_en.eq(axi.rvalid & wanted & (half | ~skip)),
            ]
            with m.If(axi.rvalid):
                m.d.sync += half.eq(~axi.rready)
                with m.If(taken):
                    m.d.sync += skip.eq(0)
            return
        words = INSTRUCTION_BITS // bits
        held, place = Signal(INSTRUCTION_BITS), Signal(range(words))
        m.d.comb += [
            axi.rready.eq(1),
            fifo.w_data.eq(Cat(held, axi.rdata)[-INSTRUCTION_BITS:]),
            fifo.w_en.eq(taken & wanted & (place == words - 1)),
        ]
        with m.If(taken):
            m.d.sync += [held.eq(fifo.w_data), place.eq(place + 1)]
            with m.If((place == words - 1) | axi.rlast):
                m.d.sync += place.eq(0)
