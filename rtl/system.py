"""The machine behind a serial port: what a board without a processor holds."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwattn.rtl.axi import axi_port
from hwattn.rtl.dram import dram_controller
from hwattn.rtl.host import host_request, host_response
from hwattn.rtl.link import Link
from hwattn.rtl.machine import STATUS_BITS, Machine
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.uart import FRAME_BITS, UartReceiver, UartTransmitter
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.dram import DramTiming
from hwattn.spec.link import SILENCE_BYTES
from hwattn.spec.program import Program


class SerialMachine(wiring.Component):
    """A machine, the link, a UART and, where the board has one, the controller of its SDRAM.

    Parameters
    ----------
    config : AcceleratorConfig
    divisor : int
        Clock cycles per bit on the serial line.
    program : Program, optional
        Initial contents of the memories.
    multiplier_style : MultiplierStyle
        As of the :class:`Machine`.
    sdram : DramTiming, optional
        The chip that is external memory, at the machine's clock.

    Members
    -------
    rx : In(1), tx : Out(1)
        Serial line, eight data bits, no parity, one stop bit; frames as in ``spec.link``.
    status : Out(4)
        Bits of ``spec.registers.Status``.
    request : In(host_request()), response : Out(host_response())
        The machine's bus, beside the link and before it: for testbenches. On a board it stays unconnected.
    axi : Out(axi_port(config)), or sdram : Out(sdram_pins(chip)) or Out(ddr3_pins(chip))
        The port to external memory or the chip's pins, where `config.external_words` is not 0.

    Latency
    -------
    A request of one unit takes 15 byte times, its answer up to 12.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        divisor: int,
        program: Program | None = None,
        multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
        sdram: DramTiming | None = None,
    ) -> None:
        self.config = config
        self.divisor = divisor
        self.program = program
        self.multiplier_style = multiplier_style
        self.timing = sdram if config.external_words else None
        external = {"axi": Out(axi_port(config))} if config.external_words else {}
        if self.timing:
            self._controller = dram_controller(config, self.timing)
            external = {"sdram": self._controller.signature.members["pins"]}
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "status": Out(STATUS_BITS),
                "request": In(host_request()),
                "response": Out(host_response()),
                **external,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = Machine(self.config, self.program, self.multiplier_style)
        m.submodules.link = link = Link(SILENCE_BYTES * FRAME_BITS * self.divisor)
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        if self.timing:
            m.submodules.sdram_controller = controller = self._controller
            connect(m, machine.axi, controller.axi)
            connect(m, controller.pins, flipped(self.sdram))
        elif self.config.external_words:
            connect(m, machine.axi, flipped(self.axi))
        connect(m, receiver.bytes, link.received)
        connect(m, link.sent, transmitter.bytes)
        # ready does not wait for valid: a testbench looks at it before it drives valid
        m.d.comb += self.request.ready.eq(machine.request.ready)
        # the machine answers a read before it takes the next request: one bit says whose answer comes
        direct = Signal()
        with m.If(self.request.valid):
            m.d.comb += [
                machine.request.payload.eq(self.request.payload),
                machine.request.valid.eq(1),
            ]
        with m.Else():
            m.d.comb += [
                machine.request.payload.eq(link.request.payload),
                machine.request.valid.eq(link.request.valid),
                link.request.ready.eq(machine.request.ready),
            ]
        with m.If(machine.request.valid & machine.request.ready):
            m.d.sync += direct.eq(self.request.valid)
        m.d.comb += [
            self.response.payload.eq(machine.response.payload),
            link.response.payload.eq(machine.response.payload),
            self.response.valid.eq(machine.response.valid & direct),
            link.response.valid.eq(machine.response.valid & ~direct),
            machine.response.ready.eq(Mux(direct, self.response.ready, link.response.ready)),
        ]
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), self.status.eq(machine.status)]
        return m
