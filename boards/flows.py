"""The flows by name, as boards name them."""

from __future__ import annotations

from hwattn.boards import ecp5, gowin
from hwattn.boards.board import Board
from hwattn.boards.nextpnr import Nextpnr

OPEN_FLOWS: dict[str, Nextpnr] = {"ecp5": ecp5.FLOW, "gowin": gowin.FLOW}
"""Flows that end in a bitstream with tools from PyPI."""

VIVADO = "vivado"
"""The flow that writes a project for Vivado (``boards.vivado``)."""


def open_flow(board: Board) -> Nextpnr:
    """Return the flow of a board that has an open one."""
    return OPEN_FLOWS[board.flow]
