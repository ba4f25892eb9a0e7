"""The pins of a DDR3 chip on a board: what is between `Ddr3Phy` and resource ``ddr3``."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module
from amaranth.lib import io
from amaranth.lib.wiring import connect

from hwattn.rtl.ddr3_phy import Ddr3Phy
from hwattn.rtl.system import SerialMachine
from hwattn.spec.ddr3 import Ddr3Timing

DOMAIN = "pins"
PSEUDO_POWER = "ddr3_pseudo_power"
"""Resource of pins that a board has tied to the chip's supply and ground, and that are driven to these levels."""


class Ddr3Connection(Elaboratable):
    """Puts a flip-flop into each pin, all of one kind, so that all are equally late; and drives what else the board has for the chip.

    Parameters
    ----------
    machine : SerialMachine
        With a controller of DDR3.
    platform : Platform
    """

    def __init__(self, machine: SerialMachine, platform: Any) -> None:
        assert isinstance(machine.timing, Ddr3Timing), machine.timing
        self.machine = machine
        self.chip = machine.timing.chip
        self.port = platform.request("ddr3", dir="-")
        has_power = (PSEUDO_POWER, 0) in platform.resources
        self.power = platform.request(PSEUDO_POWER, dir="-") if has_power else None

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.phy = phy = Ddr3Phy(self.chip)
        connect(m, self.machine.sdram, phy.pins)
        outputs = {
            "rst": ~phy.released,
            "clk_en": phy.enabled,
            "cs": 1,
            "ras": phy.command[0],
            "cas": phy.command[1],
            "we": phy.command[2],
            "ba": phy.bank,
            "a": phy.address,
            "odt": 0,
            "clk": phy.clock,
            "dm": phy.mask,
        }
        for name, value in outputs.items():
            # what a board ties to a level has no pin
            if hasattr(self.port, name):
                m.submodules[name] = buffer = io.DDRBuffer("o", getattr(self.port, name), o_domain=DOMAIN)
                m.d.comb += [half.eq(value) for half in buffer.o]
        m.submodules.dqs = strobes = io.DDRBuffer("o", self.port.dqs, o_domain=DOMAIN)
        m.d.comb += strobes.oe.eq(phy.strobe_drive)
        m.d.comb += [half.eq(phy.strobe.replicate(len(half))) for half in strobes.o]
        m.submodules.dq = data = io.DDRBuffer("io", self.port.dq, i_domain=DOMAIN, o_domain=DOMAIN)
        m.d.comb += [data.oe.eq(phy.drive), phy.input.eq(Cat(data.i[0], data.i[1]))]
        m.d.comb += [half.eq(phy.output) for half in data.o]
        if self.power is not None:
            for name in ("vcc_virtual", "gnd_virtual"):
                # those of the supply are active low
                m.submodules[name] = io.Buffer("o", getattr(self.power, name))
        return m
