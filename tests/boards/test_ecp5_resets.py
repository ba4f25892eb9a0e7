"""Resets on an ECP5's clock network; what nextpnr makes of them is in `test_ecp5`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hwattn.boards.ecp5_resets import (
    LARGE_RESET,
    MOST_RESETS,
    NETWORK_NS,
    SETUP_NS,
    add_reset_paths,
    promote_resets,
)
from hwattn.boards.nextpnr import NAME, Netlist
from hwattn.boards.nextpnr_log import read_report

CLOCK, FIRST_RESET, FIRST_DATA, UNUSED = 2, 10, 1000, 99_999


def netlist_of(*groups: int) -> Netlist:
    """Return a ring of registers: of each group with the same reset, and one without; each reset comes from a register of the ring."""
    cells: dict[str, Any] = {}
    nets: list[int | str] = [FIRST_RESET + group for group, size in enumerate(groups) for _ in range(size)]
    count = len(nets) + 1
    for number, reset in enumerate([*nets, "0"]):
        output = FIRST_DATA + number
        # the first registers make the resets
        source = FIRST_RESET + number if number < len(groups) else output
        cells[f"register_{number}"] = {
            "type": "TRELLIS_FF",
            "parameters": {"GSR": "DISABLED", "LSRMUX": "LSR", "SRMODE": "LSR_OVER_CE", "REGSET": "RESET"},
            "attributes": {},
            "port_directions": {"CLK": "input", "DI": "input", "LSR": "input", "Q": "output"},
            "connections": {
                "CLK": [CLOCK],
                "DI": [following(number, count, len(groups))],
                "LSR": [reset],
                "Q": [source],
            },
        }
    names = {"unused": {"bits": [UNUSED, "x"]}}
    return {"modules": {NAME: {"cells": cells, "netnames": names}}}


def following(number: int, count: int, groups: int) -> int:
    """Return the net of the register before one in the ring."""
    before = (number - 1) % count
    return FIRST_RESET + before if before < groups else FIRST_DATA + before


def resets(netlist: Netlist) -> list[Any]:
    cells = netlist["modules"][NAME]["cells"]
    return [cell["connections"]["LSR"][0] for cell in cells.values() if cell["type"] == "TRELLIS_FF"]


def buffers(netlist: Netlist) -> dict[int, int]:
    """Return the outputs of clock buffers by their inputs."""
    cells = netlist["modules"][NAME]["cells"]
    found = [cell["connections"] for cell in cells.values() if cell["type"] == "DCCA"]
    return {wires["CLKI"][0]: wires["CLKO"][0] for wires in found}


def test_large_resets_go_through_buffers() -> None:
    netlist = netlist_of(LARGE_RESET, LARGE_RESET - 1, LARGE_RESET + 1)
    before = copy.deepcopy(netlist)
    promote_resets(netlist)
    through = buffers(netlist)
    assert set(through) == {FIRST_RESET, FIRST_RESET + 2}
    assert len(set(through.values())) == 2
    assert resets(netlist) == [through.get(reset, reset) for reset in resets(before)]
    for name, cell in before["modules"][NAME]["cells"].items():
        cell["connections"].pop("LSR")
        kept = netlist["modules"][NAME]["cells"][name]["connections"]
        assert {port: kept[port] for port in cell["connections"]} == cell["connections"], "nothing else moves"
    taken = {
        net for cell in before["modules"][NAME]["cells"].values() for (net,) in cell["connections"].values()
    }
    assert taken.isdisjoint(through.values())
    assert UNUSED not in through.values(), "a name, though nothing is connected to it"


def test_only_so_many_as_the_clock_network_carries() -> None:
    netlist = netlist_of(*range(LARGE_RESET, LARGE_RESET + MOST_RESETS + 2))
    promote_resets(netlist)
    assert set(buffers(netlist)) == {FIRST_RESET + group for group in range(2, MOST_RESETS + 2)}, (
        "the largest"
    )


def test_small_designs_stay_as_they_are() -> None:
    netlist = netlist_of(LARGE_RESET - 1)
    before = copy.deepcopy(netlist)
    promote_resets(netlist)
    assert netlist == before


def detailed_report(*delays: float) -> dict[str, Any]:
    """Return what nextpnr writes of a design that reaches 50 MHz, with a reset that is at its buffer after each of `delays`."""
    edge = "posedge $glbnet$clk"

    def net(driver: str, at: float) -> dict[str, Any]:
        ends = [
            {"cell": "early", "port": "LSR", "delay": [at - 1, at - 0.5], "event": edge},
            {"cell": "late", "port": "LSR", "delay": [at - 0.5, at], "event": edge},
        ]
        return {"driver": driver, "port": "CLKO", "net": "reset", "event": edge, "endpoints": ends}

    start, end = {"cell": "a", "port": "Q"}, {"cell": "b", "port": "DI"}
    return {
        "fmax": {"$glbnet$clk": {"achieved": 50.0, "constraint": 40.0}},
        "critical_paths": [{"from": edge, "to": edge, "path": [{"delay": 20.0, "from": start, "to": end}]}],
        "detailed_net_timings": [
            net("other", 99.0),
            *(net(f"reset_buffer_{number}", at) for number, at in enumerate(delays)),
        ],
    }


@pytest.mark.parametrize("delays", [(), (3.0,), (3.0, 19.9 - NETWORK_NS - SETUP_NS)])
def test_a_quick_reset_changes_nothing(delays: tuple[float, ...]) -> None:
    report = detailed_report(*delays)
    add_reset_paths(report)
    attempt = read_report(report, 1, "")
    assert attempt.fmax_mhz == 50.0
    assert attempt.critical_path == ["a", "b"]
    assert "detailed_net_timings" not in report


def test_a_reset_that_is_slower_than_all_else_sets_the_clock() -> None:
    report = detailed_report(3.0, 25.0 - NETWORK_NS - SETUP_NS)
    add_reset_paths(report)
    attempt = read_report(report, 1, "")
    assert attempt.fmax_mhz == pytest.approx(40.0)
    assert attempt.critical_path == ["reset_buffer_1", "late"]
