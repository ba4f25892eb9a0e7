"""What the Colorlight i5 and i9 have in common, on muselab's extension board; amaranth-boards lacks them."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, UARTResource

HOST = "USB serial port of the extension board (DAPLink), 115,200 baud"
BAUD = 115_200


class ColorlightPlatform(LatticeECP5Platform):
    """A Colorlight module with its clock, serial port and LED.

    Pins are facts of the boards, published by their community at github.com/wuxx/Colorlight-FPGA-Projects.
    """

    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources: list[Any] = []
    connectors: list[Any] = []

    def __init__(self, led: str) -> None:
        io_type = Attrs(IO_TYPE="LVCMOS33")
        self.resources = [
            Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), io_type),
            UARTResource(0, rx="H18", tx="J17", attrs=io_type),
            *LEDResources(pins=led, invert=True, attrs=io_type),
        ]
        super().__init__()
