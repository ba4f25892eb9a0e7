"""What the OrangeCrabs have in common: DDR3, a serial port on the header, and single LEDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.build import Attrs, DiffPairs, Pins, PinsN, Resource, Subsignal
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform
from amaranth_boards.resources import LEDResources, UARTResource

from hwattn.spec.ddr3 import Ddr3

HOST = "3.3 V serial port on header pins 0 (receives) and 1 (sends), for an adapter or a microcontroller, 1 Mbaud"

MEMORY = "128 MiB DDR3 or more, of which 128 MiB are external memory of machines with external_words"
SDRAM = Ddr3()
"""MT41K64M16 or a larger chip, whose further rows are left alone."""

_DDR3 = Resource(
    "ddr3",
    0,
    Subsignal("rst", PinsN("L18", dir="o")),
    Subsignal("clk", DiffPairs("J18", "K18", dir="o"), Attrs(IO_TYPE="SSTL135D_I")),
    Subsignal("clk_en", Pins("D18", dir="o")),
    Subsignal("cs", PinsN("A12", dir="o")),
    Subsignal("we", PinsN("B12", dir="o")),
    Subsignal("ras", PinsN("C12", dir="o")),
    Subsignal("cas", PinsN("D13", dir="o")),
    Subsignal("a", Pins("C4 D2 D3 A3 A4 D4 C3 B2 B1 D1 A7 C2 B6 C1 A2 C7", dir="o")),
    Subsignal("ba", Pins("D6 B7 A6", dir="o")),
    Subsignal("dqs", DiffPairs("B15 G18", "A16 H17", dir="io"), Attrs(IO_TYPE="SSTL135D_I")),
    Subsignal("dq", Pins("C17 D15 B17 C16 A15 B13 A17 A13 F17 F16 G15 F15 J16 C18 H16 F18", dir="io")),
    Subsignal("dm", Pins("D16 G16", dir="o")),
    Subsignal("odt", Pins("C13", dir="o")),
    Attrs(IO_TYPE="SSTL135_I", SLEWRATE="FAST"),
)
"""As in litex-boards, which has been run on the board. In amaranth-boards 0.0.21 the banks' pins are others (one of them an LED's), and strobes
and masks are exchanged."""

RESOURCES: Sequence[Any] = (
    *(one for one in OrangeCrabR0_2_25FPlatform.resources if one.name != _DDR3.name),
    _DDR3,
    UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
    *LEDResources(pins="K4 M3 J3", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
)
"""The LEDs are red, green and blue of the one that amaranth-boards knows as ``rgb_led``."""
