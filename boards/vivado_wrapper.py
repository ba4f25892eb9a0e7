"""The module that Vivado sees: the machine with named interfaces, an active-low reset, and pins where there is no processor."""

from __future__ import annotations

from hwattn.boards.board import Board
from hwattn.rtl.axi_lite import axi_lite_ports
from hwattn.rtl.machine import STATUS_BITS

WRAPPER = "hwattn_top.v"
MODULE = "hwattn_top"
BUS = "s_axi"

Port = tuple[str, str, int]
"""Direction (``input`` or ``output``), name, bits."""


def bus_ports() -> list[Port]:
    """Return the ports of the AXI4-Lite slave."""
    return [
        ("input" if member.flow.name == "In" else "output", name, int(member.shape))
        for name, member in axi_lite_ports(BUS).items()
    ]


def ports(board: Board) -> list[Port]:
    """Return every port of the wrapper."""
    assert board.vivado is not None
    common: list[Port] = [("input", "clk", 1), ("input", "rst_n", 1), ("output", "status", STATUS_BITS)]
    if board.vivado.processor:
        return [*common, ("output", "interrupt", 1), *bus_ports()]
    return [*common, ("input", "rx", 1), ("output", "tx", 1)]


def _attributes(name: str) -> str:
    """Return the attributes that tell Vivado what a port is part of."""
    information = {
        "clk": ("xilinx.com:signal:clock:1.0 clk CLK", f"ASSOCIATED_BUSIF {BUS}, ASSOCIATED_RESET rst_n"),
        "rst_n": ("xilinx.com:signal:reset:1.0 rst_n RST", "POLARITY ACTIVE_LOW"),
        "interrupt": ("xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT", "SENSITIVITY LEVEL_HIGH"),
    }
    if name.startswith(f"{BUS}_"):
        logical = name.removeprefix(f"{BUS}_").upper()
        return f'  (* X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 {BUS} {logical}" *)\n'
    if name in information:
        info, parameter = information[name]
        return f'  (* X_INTERFACE_INFO = "{info}", X_INTERFACE_PARAMETER = "{parameter}" *)\n'
    return ""


def wrapper(board: Board) -> str:
    """Return the wrapper's Verilog."""
    assert board.vivado is not None
    listed = ports(board)
    declared = [
        f"{_attributes(name)}  {direction} wire {f'[{bits - 1}:0] ' if bits > 1 else ''}{name}"
        for direction, name, bits in listed
    ]
    connected = [f".{name}({name})" for _, name, _ in listed if name != "rst_n"]
    if not board.vivado.processor:
        # the bus beside the link is for testbenches
        connected += [
            ".request__valid(1'b0)",
            ".request__ready()",
            ".request__payload(65'd0)",
            ".response__valid()",
            ".response__ready(1'b1)",
            ".response__payload()",
        ]
    lines = [
        "// Written by hwattn build: the machine with the names that Vivado knows interfaces by.",
        f"module {MODULE} (",
        ",\n".join(declared),
        ");",
        "  hwattn machine (",
        ",\n".join(f"    {entry}" for entry in [".rst(~rst_n)", *connected]),
        "  );",
        "endmodule",
        "",
    ]
    return "\n".join(lines)
