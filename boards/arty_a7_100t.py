"""Digilent Arty A7-100T."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources, VivadoTarget

BOARD = Board(
    name="arty-a7-100t",
    title="Digilent Arty A7-100T",
    device="xc7a100tcsg324-1",
    resources=Resources(lut=63_400, ff=126_800, dsp=240, ram=270),
    ram_bits=18_432,
    oscillator_mhz=100.0,
    clock_mhz=50.0,
    memory="256 MiB DDR3 (not used)",
    host="USB serial port (FT2232H), 1 Mbaud",
    baud=1_000_000,
    preset="digits",
    flow="vivado",
    needs="pyosys (PyPI) for the estimate; Vivado for the bitstream",
    program_with="openFPGALoader --board arty_a7_100t hwattn.bit",
    vivado=VivadoTarget(
        part="xc7a100tcsg324-1",
        board_part="digilentinc.com:arty-a7-100:part0:1.1",
        processor="",
        pins={
            "oscillator": ("E3", "LVCMOS33"),
            "reset_n": ("C2", "LVCMOS33"),
            "rx": ("A9", "LVCMOS33"),
            "tx": ("D10", "LVCMOS33"),
            "status[0]": ("H5", "LVCMOS33"),
            "status[1]": ("J5", "LVCMOS33"),
            "status[2]": ("T9", "LVCMOS33"),
            "status[3]": ("T10", "LVCMOS33"),
        },
    ),
)
