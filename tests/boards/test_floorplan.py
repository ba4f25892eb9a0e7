"""Sites for memories: each its own, near to what it is connected to, on every ECP5."""

from __future__ import annotations

from typing import Any

import pytest

from hwattn.boards.board import boards, find_board
from hwattn.boards.ecp5 import plan
from hwattn.boards.ecp5_die import read_die
from hwattn.boards.floorplan import LARGE_MEMORY, Region, Site, near_sites
from hwattn.boards.nextpnr import NAME, Netlist

SITES = [Site(f"{column}/{row}", column, row) for column in range(0, 40, 4) for row in (0, 10, 20, 30)]
ECP5 = [name for name, board in boards().items() if board.flow == "ecp5"]


def chain(logic: str, memory: str, count: int) -> dict[str, dict[str, Any]]:
    """Return `count` cells, each connected to the next, and as many memories, each connected to one cell."""
    cells: dict[str, dict[str, Any]] = {}
    for number in range(count):
        # letters, because numbers count the blocks of one memory
        name = chr(ord("a") + number)
        nets = [10 + number, 11 + number, 1000 + number, "0"]
        cells[f"logic {name}"] = {"type": logic, "connections": {"A": nets}, "attributes": {}}
        cells[f"memory {name}"] = {"type": memory, "connections": {"A": [1000 + number]}, "attributes": {}}
    return cells


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


def test_cells_in_a_corner_are_spread_over_the_region() -> None:
    cells = chain("LOGIC", "MEMORY", 10)
    places = dict.fromkeys(cells, (0, 0))
    places |= {f"logic {chr(ord('a') + number)}": (number, number % 2) for number in range(10)}
    sites = near_sites(cells, places, "MEMORY", SITES, Region(0, 0, 40, 40))
    columns = [sites[f"memory {name}"].column for name in "abcdefghij"]
    assert columns == sorted(columns)
    assert (columns[0], columns[-1]) == (0, 36)
    rows = [sites[f"memory {name}"].row for name in "abcdefghij"]
    assert 0 in rows[0::2] and max(rows[0::2]) <= 20
    assert 30 in rows[1::2] and min(rows[1::2]) >= 20


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
    netlist: Netlist = {"modules": {NAME: {"cells": chain("LUT4", "DP16KD", 24)}}}
    cells = netlist["modules"][NAME]["cells"]
    memories = [cell for cell in cells.values() if cell["type"] == "DP16KD"]
    planned: list[bool] = []

    def place(netlist: Netlist) -> Netlist:
        """Put all logic into one tile."""
        planned.append(all("BEL" in cell["attributes"] for cell in memories))
        placed = {
            name: dict(cell, attributes={"NEXTPNR_BEL": "X6/Y25/SLICEA"}) for name, cell in cells.items()
        }
        return {"modules": {NAME: {"cells": placed}}}

    plan(board, netlist, place)
    assert planned == [False, True], "placed freely at first, then with sites"
    sites = {site.name: site for site in read_die(board.device).block_rams}
    chosen = {cell["attributes"]["BEL"] for cell in memories}
    assert len(chosen) == len(memories)
    nearest = sorted(sites, key=lambda name: abs(sites[name].column - 6) + abs(sites[name].row - 25))
    assert chosen <= set(nearest[: len(chosen) + 2]), "around that tile, but for sites as near as the last"
    assert not any("BEL" in cell["attributes"] for cell in cells.values() if cell["type"] == "LUT4")
    assert "router2/currCongWeightMult" in netlist["modules"][NAME]["settings"]


def test_a_netlist_without_memories_is_left_as_it_is() -> None:
    netlist: Netlist = {"modules": {NAME: {"cells": {"a": {"type": "LUT4", "connections": {"A": [2]}}}}}}
    plan(find_board("ulx3s-25f"), netlist, lambda planned: pytest.fail("nothing to place"))
    assert netlist == {"modules": {NAME: {"cells": {"a": {"type": "LUT4", "connections": {"A": [2]}}}}}}
