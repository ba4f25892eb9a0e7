"""What the ECPIX-5s have in common: single LEDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.build import Attrs
from amaranth_boards.resources import LEDResources

RESOURCES: Sequence[Any] = (
    *LEDResources(pins="T23 U21 K21 P21", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
)
"""The red ones of the LEDs that amaranth-boards knows as ``rgb_led``."""
