"""TUL PYNQ-Z2."""

from __future__ import annotations

from hwattn.boards.board import Board, Resources, VivadoTarget
from hwattn.boards.processor_memory import ProcessorMemory

BOARD = Board(
    name="pynq-z2",
    title="TUL PYNQ-Z2 (Zynq-7020)",
    device="xc7z020clg400-1",
    resources=Resources(lut=53_200, ff=106_400, dsp=220, ram=280),
    ram_bits=18_432,
    oscillator_mhz=50.0,
    clock_mhz=50.0,
    memory="512 MiB DDR3 of the processor as external memory",
    host="AXI4-Lite from the processor: PYNQ or UIO",
    baud=1_000_000,
    preset="digits",
    flow="vivado",
    needs="pyosys (PyPI) for the estimate; Vivado for the bitstream",
    program_with="PYNQ: python3 run_pynq.py",
    vivado=VivadoTarget(
        part="xc7z020clg400-1",
        board_part="tul.com.tw:pynq-z2:part0:1.0",
        processor="processing_system7",
        # DDR3-1050, 16 bits; ports of 64 bits
        memory=ProcessorMemory(
            peak_mb_per_s=2_100.0, port_bytes=8, latency_ns=400.0, address=0x1000_0000, bytes=128 << 20
        ),
    ),
)
