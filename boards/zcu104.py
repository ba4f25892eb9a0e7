"""AMD ZCU104."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources, VivadoTarget
from hwattn.boards.processor_memory import ZYNQ_ULTRASCALE_DDR4
from hwattn.rtl.multipliers import MultiplierStyle

BOARD = Board(
    name="zcu104",
    title="AMD ZCU104 (Zynq UltraScale+ ZU7EV)",
    device="xczu7ev-ffvc1156-2-e",
    resources=Resources(lut=230_400, ff=460_800, dsp=1_728, ram=624),
    ram_bits=18_432,
    oscillator_mhz=100.0,
    clock_mhz=100.0,
    memory="2 GiB DDR4 of the processor as external memory",
    host="AXI4-Lite from the processor: PYNQ or UIO",
    baud=1_000_000,
    preset="digits-wide",
    flow="vivado",
    needs="pyosys (PyPI) for the estimate; Vivado for the bitstream",
    program_with="PYNQ: python3 run_pynq.py",
    multiplier_style=MultiplierStyle.PACKED,
    vivado=VivadoTarget(
        part="xczu7ev-ffvc1156-2-e",
        board_part="xilinx.com:zcu104:part0:1.1",
        processor="zynq_ultra_ps_e",
        memory=ZYNQ_ULTRASCALE_DDR4,
    ),
)
