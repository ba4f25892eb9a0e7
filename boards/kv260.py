"""AMD Kria KV260."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources, VivadoTarget
from hwattn.boards.processor_memory import ZYNQ_ULTRASCALE_DDR4
from hwattn.rtl.multipliers import MultiplierStyle

BOARD = Board(
    name="kv260",
    title="AMD Kria KV260 (K26)",
    device="xck26-sfvc784-2LV-c",
    resources=Resources(lut=117_120, ff=234_240, dsp=1_248, ram=288),
    ram_bits=18_432,
    oscillator_mhz=100.0,
    clock_mhz=100.0,
    memory="4 GiB DDR4 of the processor as external memory",
    host="AXI4-Lite from the processor: PYNQ or UIO",
    baud=1_000_000,
    preset="digits-wide",
    flow="vivado",
    needs="pyosys (PyPI) for the estimate; Vivado for the bitstream",
    program_with="PYNQ: python3 run_pynq.py",
    multiplier_style=MultiplierStyle.PACKED,
    vivado=VivadoTarget(
        part="xck26-sfvc784-2LV-c",
        board_part="xilinx.com:kv260_som:part0:1.4",
        processor="zynq_ultra_ps_e",
        memory=ZYNQ_ULTRASCALE_DDR4,
    ),
)
