"""Sites for memories, for a placer that does badly without.

nextpnr's HeAP draws a design together at its pins, and then pushes memories to wherever there are sites. Those of a large machine end up
far from their logic, and the wires to them cannot be routed. With sites near to the logic, it places the rest well.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Cells = Mapping[str, Mapping[str, Any]]
"""Of a module in Yosys's JSON, by name."""

Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]

WIDE_NET = 120
"""Pins from which on a net, such as the clock, says nothing about places."""

LARGE_MEMORY = 9
"""Blocks from which on a memory is large: one whose blocks give way to others."""

SMALL_FIRST = 10.0
"""How much more the distance of a small memory's block from its place counts."""


@dataclass(frozen=True, order=True)
class Site:
    """A place for a memory: its name, and its column and row of tiles."""

    name: str
    column: int
    row: int


@dataclass(frozen=True)
class Region:
    """Part of a die over which a design is spread: first column and row of tiles, and how many of both."""

    left: float
    top: float
    width: float
    height: float


def near_sites(
    cells: Cells,
    places: Mapping[str, tuple[int, int]],
    memory: str,
    sites: Sequence[Site],
    region: Region | None = None,
) -> dict[str, Site]:
    """Find sites near to the cells that memories are connected to, by the assignment that moves them least.

    Parameters
    ----------
    cells : Cells
        After placement.
    places : mapping of str to (int, int)
        Column and row of each cell.
    memory : str
        Type of the cells that go to `sites`.
    sites : sequence of Site
        As many as there are memories, or more.
    region : Region, optional
        Spread all other cells over it first, in their order from left to right and from top to bottom.

    Returns
    -------
    dict of str to Site
        For each memory its own; one that is connected to nothing is left out.
    """
    names = list(places)
    is_memory = np.array([cells[name]["type"] == memory for name in names])
    at = np.array([places[name] for name in names], float)
    if region:
        across, down = (_shares(at[:, axis], ~is_memory) for axis in (0, 1))
        at = np.stack([region.left + across * region.width, region.top + down * region.height], 1)
    total, weights = np.zeros((len(names), 2)), np.zeros(len(names))
    for ends in _nets(cells, names):
        others = ends[~is_memory[ends]]
        if len(others):
            # a pin of a net of many says less
            weight = len(ends) ** -0.5
            held = ends[is_memory[ends]]
            total[held] += weight * at[others].mean(0)
            weights[held] += weight
    held = np.flatnonzero(weights)
    names = [names[cell] for cell in held]
    chosen = _assigned(names, total[held] / weights[held, None], sites)
    return {name: sites[number] for name, number in zip(names, chosen, strict=True)}


def _assigned(names: Sequence[str], wanted: Floats, sites: Sequence[Site]) -> Numbers:
    """Return the number of each memory's site, near to where it is `wanted`."""
    places = np.array([(site.column, site.row) for site in sites], float)
    # numbers in their names count the blocks of a memory
    stems = [re.sub(r"\d+", "#", name) for name in names]
    blocks = Counter(stems)
    importance = np.array([1.0 if blocks[stem] >= LARGE_MEMORY else SMALL_FIRST for stem in stems])
    distance = np.abs(wanted[:, None, :] - places[None]).sum(2)
    # more than in proportion: none is to go far
    _, chosen = linear_sum_assignment(importance[:, None] * distance**1.5)
    return np.asarray(chosen)


def _shares(values: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Return for each cell which share of those that are counted lies before it, in order of its value: 0 to 1."""
    order = np.argsort(values, kind="stable")
    behind = np.cumsum(counted[order]) - counted[order] / 2
    shares = np.empty(len(values))
    shares[order] = behind / max(1, int(counted.sum()))
    return shares


def _nets(cells: Cells, names: Sequence[str]) -> list[Numbers]:
    """Return for each net, but for wide ones, which of the cells it connects."""
    nets: dict[int, set[int]] = defaultdict(set)
    for number, name in enumerate(names):
        for bits in cells[name]["connections"].values():
            for bit in bits:
                # constants are strings
                if isinstance(bit, int):
                    nets[bit].add(number)
    return [np.array(sorted(ends), np.intp) for ends in nets.values() if 2 <= len(ends) <= WIDE_NET]
