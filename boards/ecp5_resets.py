"""Resets of large designs on an ECP5's clock network, where nextpnr itself puts nothing but clocks.

A wire to thousands of registers takes a quarter of the die's wires near it, and 14 ns; Lattice's clock network has outlets to the resets of the
registers too (FPGA-TN-02200, primary clocks), which all are as far away.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hwattn.boards.nextpnr import NAME, Netlist

LARGE_RESET = 1000
"""Registers from which on a reset goes on the clock network: smaller ones stay near to their registers by themselves."""

MOST_RESETS = 4
"""Of the eight lines of the clock network that reach logic."""


def promote_resets(netlist: Netlist) -> None:
    """Drive the largest resets through a clock buffer (DCCA), whose net nextpnr routes on the clock network.

    Parameters
    ----------
    netlist : Netlist
        Of the cells of ECP5. What takes the same signal for anything but a reset keeps it from where it comes.
    """
    cells: dict[str, Any] = netlist["modules"][NAME]["cells"]
    registers: dict[int, list[Any]] = defaultdict(list)
    for cell in cells.values():
        # constants are strings
        if cell["type"] == "TRELLIS_FF" and isinstance(
            reset := cell["connections"].get("LSR", ["0"])[0], int
        ):
            registers[reset].append(cell)
    large = [(len(users), net) for net, users in registers.items() if len(users) >= LARGE_RESET]
    free = 1 + max(_bits(cells), default=1)
    for number, (_, net) in enumerate(sorted(large, reverse=True)[:MOST_RESETS]):
        for cell in registers[net]:
            cell["connections"]["LSR"] = [free + number]
        cells[f"reset_buffer_{number}"] = {
            "type": "DCCA",
            "parameters": {},
            "attributes": {},
            "port_directions": {"CLKI": "input", "CLKO": "output"},
            "connections": {"CLKI": [net], "CLKO": [free + number]},
        }


def _bits(cells: dict[str, Any]) -> set[int]:
    """Return the numbers of all nets at cells."""
    return {
        bit
        for cell in cells.values()
        for bits in cell["connections"].values()
        for bit in bits
        if isinstance(bit, int)
    }
