"""The design under test: the system of a board without a processor and, where the machine has a port for it, external memory."""

from __future__ import annotations

from importlib import resources
from typing import Any

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwattn.rtl.axi import ADDRESS_BITS
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.system import SerialMachine
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim.ddr3 import Ddr3Chip
from hwattn.sim.cosim.sdram import SdramChip
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.ddr3 import Ddr3Timing
from hwattn.spec.dram import DramTiming
from hwattn.spec.program import Program
from hwattn.spec.sdram import SdramTiming

MEMORY_SETTINGS = {"latency": 16, "beats": 8, "cycles": 8, "stall": 8, "fault": 2, "fault_at": 32, "peek": 32}
"""Inputs of ``axi_memory.v`` that the testbench drives, as ``memory_NAME``, and their bits."""

_INSIDE = ("axi", "sdram")
"""Members of `SerialMachine` that end at the memory."""

_SLAVE_INPUTS = (
    "araddr",
    "arlen",
    "arvalid",
    "rready",
    "awaddr",
    "awlen",
    "awvalid",
    "wdata",
    "wstrb",
    "wlast",
    "wvalid",
    "bready",
)
_SLAVE_OUTPUTS = ("arready", "rdata", "rresp", "rlast", "rvalid", "awready", "wready", "bresp", "bvalid")


class MemorySystem(wiring.Component):
    """A serial machine and its external memory: a model behind its AXI4 port, or an SDRAM chip.

    Parameters
    ----------
    config : AcceleratorConfig
    divisor : int
    program : Program, optional
    multiplier_style : MultiplierStyle
        As for `SerialMachine`.
    sdram : DramTiming, optional

    Members
    -------
    As those of `SerialMachine` but `axi` or `sdram`, and without a chip:

    memory_NAME : In
        Settings of the memory; see ``axi_memory.v``.
    memory_peeked : Out
        Contents of the word `memory_peek`.
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
        self._timing = sdram
        self._inner = SerialMachine(config, divisor, program, multiplier_style, sdram)
        members: dict[str, Any] = {
            name: member for name, member in self._inner.signature.members.items() if name not in _INSIDE
        }
        if sdram is None:
            members |= {f"memory_{name}": In(bits) for name, bits in MEMORY_SETTINGS.items()}
            members["memory_peeked"] = Out(8 * config.lanes)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Join the system and its memory."""
        m = Module()
        m.submodules.system = inner = self._inner
        for name, member in inner.signature.members.items():
            if name in _INSIDE:
                continue
            mine, its = getattr(self, name), getattr(inner, name)
            if member.is_signature:
                connect(m, flipped(mine), its)
            else:
                m.d.comb += mine.eq(its) if member.flow == Out else its.eq(mine)
        if self._timing:
            m.submodules.chip = chip = _chip(self._timing)
            connect(m, inner.sdram, chip.pins)
            return m
        axi = inner.axi
        m.submodules.memory = Instance(
            "axi_memory",
            p_LANES=self.config.lanes,
            p_WORDS=self.config.external_words,
            p_ADDRESS_BITS=ADDRESS_BITS,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            o_peeked=self.memory_peeked,
            **{f"i_{name}": getattr(self, f"memory_{name}") for name in MEMORY_SETTINGS},
            **{f"i_{name}": getattr(axi, name) for name in _SLAVE_INPUTS},
            **{f"o_{name}": getattr(axi, name) for name in _SLAVE_OUTPUTS},
        )
        return m


def _chip(timing: DramTiming) -> SdramChip | Ddr3Chip:
    """Return the chip of a kind."""
    if isinstance(timing, Ddr3Timing):
        return Ddr3Chip(timing)
    assert isinstance(timing, SdramTiming), timing
    return SdramChip(timing)


def system_verilog(
    config: AcceleratorConfig,
    top: str,
    divisor: int,
    program: Program | None = None,
    multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
    sdram: DramTiming | None = None,
) -> str:
    """Return the Verilog of the design under test."""
    if not config.external_words:
        return to_verilog(SerialMachine(config, divisor, program, multiplier_style), top)
    model = "axi_memory.v"
    if sdram:
        model = "ddr3_chip.v" if isinstance(sdram, Ddr3Timing) else "sdram_chip.v"
    memory = resources.files("hwattn.sim.cosim").joinpath(model).read_text()
    return to_verilog(MemorySystem(config, divisor, program, multiplier_style, sdram), top) + "\n" + memory
