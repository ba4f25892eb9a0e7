"""AMD ZCU102."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources, VivadoTarget
from hwattn.boards.processor_memory import ZYNQ_ULTRASCALE_DDR4
from hwattn.rtl.multipliers import MultiplierStyle

BOARD = Board(
    name="zcu102",
    title="AMD ZCU102 (Zynq UltraScale+ ZU9EG)",
    device="xczu9eg-ffvb1156-2-e",
    resources=Resources(lut=274_080, ff=548_160, dsp=2_520, ram=1_824),
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
        part="xczu9eg-ffvb1156-2-e",
        board_part="xilinx.com:zcu102:part0:3.4",
        processor="zynq_ultra_ps_e",
        memory=ZYNQ_ULTRASCALE_DDR4,
    ),
)
