"""Resets of large designs on an ECP5's clock network, where nextpnr itself puts nothing but clocks.

A wire to thousands of registers takes a general wire in every tile, and 14 ns to the farthest. Eight lines of the clock network lead into local
wires of every tile too (``G_HPBX0000`` to ``0700`` in Trellis's database), from where it is a short way to the resets.

nextpnr takes the clock network's nets for wires without delay, resets as well as clocks; `add_reset_paths` mends its report.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import Any

from hwattn.boards.nextpnr import NAME, Netlist

LARGE_RESET = 1000
"""Registers from which on a reset goes on the clock network: smaller ones stay near to their registers by themselves."""

MOST_RESETS = 4
"""Of the eight lines of the clock network that reach logic."""

NETWORK_NS = 5.0
"""Time from a clock buffer to the resets of registers: assumed, as long as nextpnr takes a wire of 34 tiles to be; neither nextpnr nor Trellis knows it."""

SETUP_NS = 0.42
"""Of a register's reset, in nextpnr's reports for the slowest speed grade."""

_BUFFER = "reset_buffer_"


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
    free = 1 + max(_nets(netlist["modules"][NAME]), default=1)
    for number, (_, net) in enumerate(sorted(large, reverse=True)[:MOST_RESETS]):
        for cell in registers[net]:
            cell["connections"]["LSR"] = [free + number]
        cells[f"{_BUFFER}{number}"] = {
            "type": "DCCA",
            "parameters": {},
            "attributes": {},
            "port_directions": {"CLKI": "input", "CLKO": "output"},
            "connections": {"CLKI": [net], "CLKO": [free + number]},
        }


def add_reset_paths(report: dict[str, Any]) -> None:
    """Count the time that resets take on the clock network.

    Parameters
    ----------
    report : dict
        nextpnr's, detailed. The clocks that such a reset allows are lowered where it is slower than all other paths, and it becomes one
        of the critical paths. The details are taken out.
    """
    for net in report.pop("detailed_net_timings", []):
        if not net["driver"].startswith(_BUFFER):
            continue
        last = max(net["endpoints"], key=lambda endpoint: max(endpoint["delay"]))
        delay, event = max(last["delay"]) + NETWORK_NS + SETUP_NS, last["event"]
        clock = report["fmax"][event.split()[-1]]
        clock["achieved"] = min(clock["achieved"], 1000 / delay)
        step = {
            "delay": delay,
            "from": {"cell": net["driver"], "port": "CLKO"},
            "to": last,
            "type": "routing",
        }
        report["critical_paths"].append({"from": event, "to": event, "path": [step]})


def _nets(module: dict[str, Any]) -> set[int]:
    """Return the numbers of all nets of a module, those that nothing is connected to included."""
    connected = (bits for cell in module["cells"].values() for bits in cell["connections"].values())
    named = (net["bits"] for net in module["netnames"].values())
    return {bit for bits in chain(connected, named) for bit in bits if isinstance(bit, int)}
