"""What the OrangeCrabs have in common: a serial port on the header, and single LEDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.build import Attrs
from amaranth_boards.resources import LEDResources, UARTResource

HOST = "3.3 V serial port on header pins 0 (receives) and 1 (sends), for an adapter or a microcontroller, 1 Mbaud"

RESOURCES: Sequence[Any] = (
    UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
    *LEDResources(pins="K4 M3 J3", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
)
"""The LEDs are red, green and blue of the one that amaranth-boards knows as ``rgb_led``."""
