"""What BoardTop takes for a machine, but small."""

from __future__ import annotations

from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwattn.boards.board import Board
from hwattn.rtl.dram import dram_controller
from hwattn.rtl.entries import UNIT_BITS
from hwattn.rtl.link import Link
from hwattn.rtl.machine import STATUS_BITS
from hwattn.rtl.memory import block_ram
from hwattn.rtl.uart import FRAME_BITS, UartReceiver, UartTransmitter
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.dram import DramTiming
from hwattn.spec.link import SILENCE_BYTES


class Echo(wiring.Component):
    """UART and link, reads that are answered with their address, and a block RAM that keeps the addresses; with `timing` also a controller
    of external memory that nobody uses."""

    def __init__(self, board: Board, timing: DramTiming | None = None) -> None:
        self.board = board
        self.timing = timing
        self.config = AcceleratorConfig(lanes=4)
        members = {"rx": In(1, init=1), "tx": Out(1, init=1), "status": Out(STATUS_BITS)}
        if timing:
            self._controller = dram_controller(self.config, timing)
            members["sdram"] = self._controller.signature.members["pins"]
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.link = link = Link(SILENCE_BYTES * FRAME_BITS * self.board.divisor)
        m.submodules.receiver = receiver = UartReceiver(self.board.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.board.divisor)
        if self.timing:
            m.submodules.controller = controller = self._controller
            wiring.connect(m, controller.pins, wiring.flipped(self.sdram))
        wiring.connect(m, receiver.bytes, link.received)
        wiring.connect(m, link.sent, transmitter.bytes)
        m.submodules.memory = memory = block_ram(UNIT_BITS, 512)
        write, read = memory.write_port(), memory.read_port()
        count = Signal(9)
        m.d.comb += [
            write.en.eq(link.request.valid),
            write.addr.eq(count),
            write.data.eq(link.request.payload.addr),
            read.en.eq(1),
            read.addr.eq(count - 1),
        ]
        m.d.sync += self.status.eq(read.data)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            link.request.ready.eq(1),
            link.response.valid.eq(1),
        ]
        with m.If(link.request.valid):
            m.d.sync += [link.response.payload.eq(link.request.payload.addr), count.eq(count + 1)]
            m.d.sync += Assert(link.request.payload.addr != 0)
        return m
