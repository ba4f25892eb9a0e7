"""The module that Vivado sees: the machine with named interfaces, an active-low reset, and pins where there is no processor."""

from __future__ import annotations

from amaranth.hdl import Shape
from amaranth.lib.wiring import In

from hwattn.boards.board import Board
from hwattn.boards.vivado_memory import memory_ports
from hwattn.rtl.axi import BURST_WORDS_MAX
from hwattn.rtl.axi_lite import axi_lite_ports
from hwattn.rtl.axi_stripes import WRITES_OWED
from hwattn.rtl.axi_system import master_ports
from hwattn.rtl.fetcher import BURSTS
from hwattn.rtl.machine import STATUS_BITS
from hwattn.spec.config import AcceleratorConfig

WRAPPER = "hwattn_top.v"
MODULE = "hwattn_top"
BUS = "s_axi"

Port = tuple[str, str, int]
"""Direction (``input`` or ``output``), name, bits."""


def bus_ports(config: AcceleratorConfig, masters: int) -> dict[str, list[Port]]:
    """Return the ports of each bus by its name: the AXI4-Lite slave, and `masters` AXI4 masters."""
    members = {**axi_lite_ports(BUS), **(master_ports(config, masters) if masters else {})}
    listed: dict[str, list[Port]] = {
        name: [] for name in (BUS, *(f"m_axi_{number}" for number in range(masters)))
    }
    for name, member in members.items():
        bus = name.rpartition("_")[0]
        listed[bus].append(("input" if member.flow is In else "output", name, Shape.cast(member.shape).width))
    return listed


def ports(board: Board, config: AcceleratorConfig) -> list[Port]:
    """Return every port of the wrapper."""
    assert board.vivado is not None
    common: list[Port] = [("input", "clk", 1), ("input", "rst_n", 1), ("output", "status", STATUS_BITS)]
    if board.vivado.processor:
        buses = bus_ports(config, memory_ports(board, config))
        return [*common, ("output", "interrupt", 1), *(port for bus in buses.values() for port in bus)]
    return [*common, ("input", "rx", 1), ("output", "tx", 1)]


def _attributes(name: str, buses: list[str]) -> str:
    """Return the attributes that tell Vivado what a port is part of."""
    bus, _, logical = name.rpartition("_")
    if bus in buses:
        info, parameter = f"xilinx.com:interface:aximm:1.0 {bus} {logical.upper()}", ""
        if bus != BUS and logical == "awid":
            parameter = _parameters(bus)
    elif name in ("clk", "rst_n", "interrupt"):
        info, parameter = {
            "clk": (
                "xilinx.com:signal:clock:1.0 clk CLK",
                f"ASSOCIATED_BUSIF {':'.join(buses)}, ASSOCIATED_RESET rst_n",
            ),
            "rst_n": ("xilinx.com:signal:reset:1.0 rst_n RST", "POLARITY ACTIVE_LOW"),
            "interrupt": ("xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT", "SENSITIVITY LEVEL_HIGH"),
        }[name]
    else:
        return ""
    more = f', X_INTERFACE_PARAMETER = "{parameter}"' if parameter else ""
    return f'  (* X_INTERFACE_INFO = "{info}"{more} *)\n'


def _parameters(bus: str) -> str:
    """Return what an interconnect may know of a master: it then needs to convert and to keep less."""
    values = {
        "PROTOCOL": "AXI4",
        "SUPPORTS_NARROW_BURST": 0,
        "MAX_BURST_LENGTH": BURST_WORDS_MAX,
        "NUM_READ_OUTSTANDING": BURSTS,
        "NUM_WRITE_OUTSTANDING": WRITES_OWED,
    }
    return ", ".join([f"XIL_INTERFACENAME {bus}", *(f"{name} {value}" for name, value in values.items())])


def wrapper(board: Board, config: AcceleratorConfig) -> str:
    """Return the wrapper's Verilog."""
    assert board.vivado is not None
    listed = ports(board, config)
    buses = list(bus_ports(config, memory_ports(board, config))) if board.vivado.processor else []
    declared = [
        f"{_attributes(name, buses)}  {direction} wire {f'[{bits - 1}:0] ' if bits > 1 else ''}{name}"
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
