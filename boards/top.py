"""The top level on a board: the machine behind the board's serial port, and its status on LEDs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io

from hwattn.boards.board import Board
from hwattn.boards.ddr3 import Ddr3Connection
from hwattn.boards.pll import add_clock
from hwattn.rtl.ddr3_phy import RATIO
from hwattn.rtl.machine import STATUS_BITS
from hwattn.rtl.system import SerialMachine
from hwattn.spec.ddr3 import Ddr3Timing

LEDS = STATUS_BITS


class BoardTop(Elaboratable):
    """Connects a `SerialMachine` to resources ``uart`` and, where the board has them, ``led`` 0 to 3 (running, paused, done, error).

    A machine with SDRAM also gets resource ``sdram``, with a flip-flop in each pin, and the chip's clock inverted: so that commands and data
    to be written change half a cycle before the chip takes them, and data that are read have half a cycle to arrive. One with DDR3 gets
    resource ``ddr3`` and a second clock (`Ddr3Connection`).

    Parameters
    ----------
    machine : SerialMachine
    board : Board
        Whose clock the machine runs at.
    """

    def __init__(self, machine: SerialMachine, board: Board) -> None:
        self.machine = machine
        self.board = board

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        timing = self.machine.timing
        with_ddr3 = isinstance(timing, Ddr3Timing)
        fast = ("pins", RATIO) if with_ddr3 else None
        add_clock(m, platform, self.board.oscillator_mhz, self.board.clock_mhz, fast)
        m.submodules.hwattn = self.machine
        uart = platform.request("uart", dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [self.machine.rx.eq(rx.i), tx.o.eq(self.machine.tx)]
        for number in range(LEDS):
            if ("led", number) in platform.resources:
                pin = platform.request("led", number, dir="-")
                m.submodules[f"led_{number}"] = led = io.Buffer("o", pin)
                m.d.comb += led.o.eq(self.machine.status[number])
        if with_ddr3:
            m.submodules.ddr3 = Ddr3Connection(self.machine, platform)
        elif timing:
            self._connect_sdram(m, platform.request("sdram", dir="-"))
        return m

    def _connect_sdram(self, m: Module, port: Any) -> None:
        """Connect the pins of the chip."""
        pins = self.machine.sdram
        # what a board ties to a level has no pin
        outputs = {
            "ras": pins.command[0],
            "cas": pins.command[1],
            "we": pins.command[2],
            "ba": pins.bank,
            "a": pins.address,
            "dqm": getattr(pins, "mask", 0),
            "clk_en": 1,
            "cs": 1,
        }
        for name, value in outputs.items():
            if not hasattr(port, name):
                continue
            m.submodules[f"sdram_{name}"] = buffer = io.FFBuffer("o", getattr(port, name))
            m.d.comb += buffer.o.eq(value)
        m.submodules.sdram_dq = data = io.FFBuffer("io", port.dq)
        m.d.comb += [data.o.eq(pins.output), data.oe.eq(pins.drive), pins.input.eq(data.i)]
        m.submodules.sdram_clk = clock = io.DDRBuffer("o", port.clk)
        # low in the first half of the cycle
        m.d.comb += [clock.o[0].eq(0), clock.o[1].eq(1)]
