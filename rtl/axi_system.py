"""The machine behind AXI4-Lite, with AXI4 masters for external memory: what the fabric of a board with a processor holds."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hwattn.rtl.axi import axi_port
from hwattn.rtl.axi_lite import AxiLite, axi_lite_ports
from hwattn.rtl.axi_stripes import AxiStripes, part_config
from hwattn.rtl.machine import STATUS_BITS, Machine
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program import Program
from hwattn.spec.registers import Status
from hwattn.spec.stripes import Stripes


def master_ports(config: AcceleratorConfig, ports: int) -> dict[str, In | Out]:
    """Return the ports of the AXI4 masters, named as AXI names them (``m_axi_0_awaddr``), where a machine has external memory."""
    if not config.external_words:
        return {}
    part = axi_port(part_config(config, ports)).members
    return {
        f"m_axi_{number}_{name}": Out(member.shape, init=member.init)
        if member.flow is Out
        else In(member.shape)
        for number in range(ports)
        for name, member in part.items()
    }


class AxiMachine(wiring.Component):
    """A machine and its AXI4-Lite port.

    Parameters
    ----------
    config : AcceleratorConfig
    program : Program, optional
        Initial contents of the memories.
    multiplier_style : MultiplierStyle
        As for `Machine`.
    ports : int
        AXI4 masters over which words of external memory are striped (`rtl.axi_stripes`).

    Members
    -------
    s_axi_* : AXI4-Lite slave (`rtl.axi_lite`)
    m_axi_N_* : AXI4 masters of ``lanes / ports`` bytes, N from 0 on, where `config.external_words` is not 0
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
        ports: int = 1,
    ) -> None:
        self.config = config
        self.program = program
        self.multiplier_style = multiplier_style
        self.stripes = Stripes(config.lanes, ports, config.external_words)
        super().__init__(
            {
                **axi_lite_ports("s_axi"),
                **master_ports(config, ports),
                "status": Out(STATUS_BITS),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = Machine(self.config, self.program, self.multiplier_style)
        m.submodules.axi_lite = axi_lite = AxiLite()
        connect(m, axi_lite.request, machine.request)
        connect(m, machine.response, axi_lite.response)
        for name, direction in axi_lite_ports("s_axi").items():
            outer, inner = getattr(self, name), getattr(axi_lite, name)
            m.d.comb += outer.eq(inner) if direction.flow is Out else inner.eq(outer)
        if self.config.external_words:
            self._connect_memory(m, machine)
        stopped = int(Status.DONE | Status.ERROR)
        m.d.comb += [self.status.eq(machine.status), self.interrupt.eq((machine.status & stopped) != 0)]
        return m

    def _connect_memory(self, m: Module, machine: Machine) -> None:
        """Connect the machine's port to the master, or to several through stripes."""
        masters = [machine.axi]
        if self.stripes.ports > 1:
            m.submodules.stripes = stripes = AxiStripes(self.config, self.stripes)
            connect(m, machine.axi, stripes.axi)
            masters = list(stripes.ports)
        for number, master in enumerate(masters):
            for name, member in axi_port(part_config(self.config, self.stripes.ports)).members.items():
                outer, inner = getattr(self, f"m_axi_{number}_{name}"), getattr(master, name)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
