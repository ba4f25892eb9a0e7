"""What the Colorlight i5 and i9 have in common, on muselab's extension board; amaranth-boards lacks them."""

from __future__ import annotations

import dataclasses
from typing import Any

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, SDRAMResource, UARTResource

from hwattn.spec.sdram import SDRAM_2M_X_32

HOST = "USB serial port of the extension board (DAPLink), 115,200 baud"
BAUD = 115_200

MEMORY = "8 MiB SDRAM, external memory of machines with external_words"
SDRAM = dataclasses.replace(SDRAM_2M_X_32, masked=False)
"""Etron EM638325 (i5) or ESMT M12L64322A (i9); the pins that mask bytes are tied low, as are clock enable and chip select to their levels."""


class ColorlightPlatform(LatticeECP5Platform):
    """A Colorlight module with its clock, serial port, LED and SDRAM.

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
            SDRAMResource(
                0,
                clk="B9",
                we_n="A10",
                ras_n="B10",
                cas_n="A9",
                ba="B11 C8",
                a="B13 C14 A16 A17 B16 B15 A14 A13 A12 A11 B12",
                # in another order than the chip's pins on the i9, which nobody can tell
                dq="D15 E14 E13 D12 E12 D11 C10 B17 B8 A8 C7 A7 A6 B6 A5 B5 "
                "D5 C5 D6 C6 E7 D7 E8 D8 E9 D9 E11 C11 C12 D13 D14 C15",
                attrs=Attrs(IO_TYPE="LVCMOS33", SLEWRATE="FAST"),
            ),
        ]
        super().__init__()
