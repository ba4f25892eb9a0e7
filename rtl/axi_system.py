"""The machine behind AXI4-Lite: what the fabric of a board with a processor holds."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect

from hwattn.rtl.axi_lite import AxiLite, axi_lite_ports
from hwattn.rtl.machine import STATUS_BITS, Machine
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program import Program
from hwattn.spec.registers import Status


class AxiMachine(wiring.Component):
    """A machine and its AXI4-Lite port.

    Parameters
    ----------
    config : AcceleratorConfig
    program : Program, optional
        Initial contents of the memories.
    multiplier_style : MultiplierStyle
        As for `Machine`.

    Members
    -------
    s_axi_* : AXI4-Lite slave (`rtl.axi_lite`)
    status : Out(4)
        Bits of ``spec.registers.Status``.
    interrupt : Out(1)
        High while the machine has stopped, done or with an error.

    Latency
    -------
    See `AxiLite` and `Host`.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        program: Program | None = None,
        multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
    ) -> None:
        self.config = config
        self.program = program
        self.multiplier_style = multiplier_style
        super().__init__({**axi_lite_ports("s_axi"), "status": Out(STATUS_BITS), "interrupt": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = Machine(self.config, self.program, self.multiplier_style)
        m.submodules.axi_lite = axi_lite = AxiLite()
        connect(m, axi_lite.request, machine.request)
        connect(m, machine.response, axi_lite.response)
        for name, direction in axi_lite_ports("s_axi").items():
            outer, inner = getattr(self, name), getattr(axi_lite, name)
            m.d.comb += outer.eq(inner) if direction.flow is Out else inner.eq(outer)
        stopped = int(Status.DONE | Status.ERROR)
        m.d.comb += [self.status.eq(machine.status), self.interrupt.eq((machine.status & stopped) != 0)]
        return m
