"""What the ECPIX-5s have in common: DDR3 and single LEDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.build import Attrs
from amaranth_boards.resources import LEDResources

from hwattn.spec.ddr3 import Ddr3

MEMORY = "512 MiB DDR3, external memory of machines with external_words"
SDRAM = Ddr3(row_bits=15)
"""MT41K256M16."""

RESOURCES: Sequence[Any] = (
    *LEDResources(pins="T23 U21 K21 P21", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
)
"""The red ones of the LEDs that amaranth-boards knows as ``rgb_led``."""
