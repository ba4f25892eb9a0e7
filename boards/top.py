"""The top level on a board: the machine behind the board's serial port, and its status on LEDs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io

from hwattn.boards.board import Board
from hwattn.boards.pll import add_clock
from hwattn.rtl.machine import STATUS_BITS
from hwattn.rtl.system import SerialMachine

LEDS = STATUS_BITS


class BoardTop(Elaboratable):
    """Connects a `SerialMachine` to resources ``uart`` and, where the board has them, ``led`` 0 to 3 (running, paused, done, error).

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
        add_clock(m, platform, self.board.oscillator_mhz, self.board.clock_mhz)
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
        return m
