"""Projects for Vivado: everything that it needs, written without it; nothing here has been run through the vendor's tool."""

from __future__ import annotations

from pathlib import Path

from hwattn.boards import vivado_design
from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult, Progress, run_tool
from hwattn.boards.ip_xact import component
from hwattn.boards.vivado_memory import memory_ports
from hwattn.boards.vivado_wrapper import WRAPPER, wrapper
from hwattn.rtl.axi_system import AxiMachine
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program import Program

CORE = "hwattn.v"
"""The machine's Verilog; its top module is ``hwattn``."""

PROJECT = "project.tcl"
UNPROVEN = "timing is unproven: no vendor tool has placed and routed this; resources are an estimate of Yosys, whose mapping is not the vendor's"


def top(board: Board, config: AcceleratorConfig, program: Program | None) -> AxiMachine | SerialMachine:
    """Return what a board of the Vivado flow holds: the machine behind AXI4-Lite, or a serial port where there is no processor."""
    assert board.vivado is not None
    ports = memory_ports(board, config)
    if board.vivado.processor:
        return AxiMachine(config, program, board.multiplier_style, ports or 1)
    return SerialMachine(config, board.divisor, program, board.multiplier_style)


def write_project(board: Board, config: AcceleratorConfig, folder: Path) -> None:
    """Write a project around ``hwattn.v`` in `folder`: Tcl, wrapper, constraints, IP-XACT, host script and device tree.

    Parameters
    ----------
    board : Board
    config : AcceleratorConfig
        Of the machine in ``hwattn.v``.
    folder : Path

    Raises
    ------
    RefusedError
        The board has no external memory for it, or too little.
    """
    assert board.vivado is not None
    texts = {
        PROJECT: vivado_design.project(board, config, CORE),
        WRAPPER: wrapper(board, config),
        vivado_design.CONSTRAINTS: vivado_design.constraints(board),
    }
    if board.vivado.processor:
        texts |= {
            "component.xml": component(CORE, WRAPPER, config, memory_ports(board, config)),
            "run_pynq.py": vivado_design.PYNQ_SCRIPT,
            "hwattn.dtsi": vivado_design.device_tree(board, config),
        }
    for name, text in texts.items():
        (folder / name).write_text(text)


def run_vivado(folder: Path, result: BuildResult, progress: Progress) -> None:
    """Run the project; its script ends with an error, and without a bitstream, when the clock is missed.

    Raises
    ------
    FailedError
        It ended with an error.
    """
    progress("Vivado")
    run_tool("vivado", ["-mode", "batch", "-source", PROJECT], folder, "vivado_run.log", result, "Vivado")
