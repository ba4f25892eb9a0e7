"""The machine behind a serial port: what a board without a processor holds."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hwattn.rtl.link import Link
from hwattn.rtl.machine import STATUS_BITS, Machine
from hwattn.rtl.uart import FRAME_BITS, UartReceiver, UartTransmitter
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.link import SILENCE_BYTES
from hwattn.spec.program import Program


class SerialMachine(wiring.Component):
    """A machine, the link, and a UART.

    Parameters
    ----------
    config : AcceleratorConfig
    divisor : int
        Clock cycles per bit on the serial line.
    program : Program, optional
        Initial contents of the memories.

    Members
    -------
    rx : In(1), tx : Out(1)
        Serial line, eight data bits, no parity, one stop bit; frames as in ``spec.link``.
    status : Out(4)
        Bits of ``spec.registers.Status``.

    Latency
    -------
    A request of one unit takes 15 byte times, its answer up to 12.
    """

    def __init__(self, config: AcceleratorConfig, divisor: int, program: Program | None = None) -> None:
        self.config = config
        self.divisor = divisor
        self.program = program
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "status": Out(STATUS_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = Machine(self.config, self.program)
        m.submodules.link = link = Link(SILENCE_BYTES * FRAME_BITS * self.divisor)
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        connect(m, receiver.bytes, link.received)
        connect(m, link.sent, transmitter.bytes)
        connect(m, link.request, machine.request)
        connect(m, machine.response, link.response)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), self.status.eq(machine.status)]
        return m
