"""Sites for memories: each its own, near to what it is connected to, on every ECP5."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hwattn.boards.board import boards, find_board
from hwattn.boards.ecp5 import plan
from hwattn.boards.ecp5_die import read_die
from hwattn.boards.floorplan import LARGE_MEMORY, Region, Site, near_sites, rough_sites
from hwattn.boards.nextpnr import NAME, Netlist

GROUPS, LOGIC, MEMORIES = 6, 60, 4
SITES = [Site(f"{column}/{row}", column, row) for column in range(0, 40, 4) for row in (0, 10, 20, 30)]
ECP5 = [name for name, board in boards().items() if board.flow == "ecp5"]


def groups(logic: str, memory: str) -> dict[str, dict[str, Any]]:
    """Groups of cells and memories with many wires within, and one from each to the next."""
    nets = itertools.count(2)
    chance = np.random.default_rng(1)
    cells: dict[str, dict[str, Any]] = {}
    for group in range(GROUPS):
        for kind, count in ((logic, LOGIC), (memory, MEMORIES)):
            for number in range(count):
                name = f"{kind}_{'abcdef'[group]}_{'x' * number}"
                cells[name] = {"type": kind, "connections": {"A": ["0"]}, "attributes": {}}

    def connect(ends: list[str]) -> None:
        net = next(nets)
        for end in ends:
            cells[end]["connections"]["A"].append(net)

    names = list(cells)
    size = LOGIC + MEMORIES
    for group in range(GROUPS):
        members = names[group * size : (group + 1) * size]
        for member in members:
            connect([member, *chance.choice(members, 2, replace=False)])
        connect([members[0], names[(group + 1) * size % len(names)]])
    return cells


def test_memories_of_a_group_lie_together() -> None:
    cells = groups("LOGIC", "MEMORY")
    sites = rough_sites(cells, {"LOGIC": 1.0}, "MEMORY", SITES, Region(0, 0, 40, 40))
    assert sites.keys() == {name for name, cell in cells.items() if cell["type"] == "MEMORY"}
    assert len({site.name for site in sites.values()}) == GROUPS * MEMORIES, "each its own"
    at = {name: np.array([site.column, site.row]) for name, site in sites.items()}
    within, between = [], []
    for one, other in itertools.combinations(at, 2):
        same = one.split("_")[1] == other.split("_")[1]
        (within if same else between).append(np.abs(at[one] - at[other]).sum())
    assert np.mean(within) < 0.65 * np.mean(between)


def test_a_memory_goes_to_what_it_is_connected_to() -> None:
    places = {
        "right": (37, 29),
        "left": (1, 1),
        "right memory": (0, 0),
        "left memory": (36, 30),
        "alone": (5, 5),
    }
    cells = {
        "right": {"type": "LOGIC", "connections": {"Z": [2], "A": ["1"]}},
        "left": {"type": "LOGIC", "connections": {"Z": [3]}},
        "right memory": {"type": "MEMORY", "connections": {"A": [2]}},
        "left memory": {"type": "MEMORY", "connections": {"A": [3]}},
        "alone": {"type": "MEMORY", "connections": {"A": ["0"]}},
    }
    sites = near_sites(cells, places, "MEMORY", SITES)
    assert {name: site.name for name, site in sites.items()} == {
        "right memory": "36/30",
        "left memory": "0/0",
    }


def test_blocks_of_a_large_memory_give_way() -> None:
    """All want the same site."""
    names = [f"large_{number}" for number in range(LARGE_MEMORY)] + ["small"]
    cells = {name: {"type": "MEMORY", "connections": {"A": [2]}} for name in names}
    cells["logic"] = {"type": "LOGIC", "connections": {"Z": [2]}}
    places = dict.fromkeys(cells, (20, 20))
    assert near_sites(cells, places, "MEMORY", SITES)["small"].name == "20/20"


@pytest.mark.parametrize("name", ECP5)
def test_sites_of_the_die_are_as_many_as_its_block_rams(name: str) -> None:
    board = find_board(name)
    die = read_die(board.device)
    assert len({site.name for site in die.block_rams}) == len(die.block_rams) == board.resources.ram
    assert all(site.column in die.columns and site.row in die.rows for site in die.block_rams)


def test_plan_of_a_netlist() -> None:
    board = find_board("ulx3s-25f")
    netlist: Netlist = {"modules": {NAME: {"cells": groups("LUT4", "DP16KD")}}}
    cells = netlist["modules"][NAME]["cells"]
    corner = {}

    def place(planned: Netlist) -> Netlist:
        assert all("BEL" in cell["attributes"] for cell in cells.values() if cell["type"] == "DP16KD")
        placed = {
            name: dict(cell, attributes={"NEXTPNR_BEL": "X6/Y25/SLICEA"}) for name, cell in cells.items()
        }
        corner.update(placed)
        return {"modules": {NAME: {"cells": placed}}}

    plan(board, netlist, place)
    assert corner, "placed between the rough plan and the final one"
    sites = {site.name: site for site in read_die(board.device).block_rams}
    chosen = [sites[cell["attributes"]["BEL"]] for cell in cells.values() if cell["type"] == "DP16KD"]
    assert len(set(chosen)) == len(chosen) == GROUPS * MEMORIES
    nearest = sorted(sites.values(), key=lambda site: abs(site.column - 6) + abs(site.row - 25))
    assert {site.name for site in chosen[:4]} <= {site.name for site in nearest[: 2 * len(chosen)]}
    assert "BEL" not in next(iter(cells.values()))["attributes"], "logic is left to nextpnr"
    assert "router2/currCongWeightMult" in netlist["modules"][NAME]["settings"]


def test_a_netlist_without_memories_is_left_as_it_is() -> None:
    netlist: Netlist = {"modules": {NAME: {"cells": {"a": {"type": "LUT4", "connections": {"A": [2]}}}}}}
    plan(find_board("ulx3s-25f"), netlist, lambda planned: pytest.fail("nothing to place"))
    assert netlist == {"modules": {NAME: {"cells": {"a": {"type": "LUT4", "connections": {"A": [2]}}}}}}
