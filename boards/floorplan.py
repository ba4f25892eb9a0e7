"""Sites for memories, for a placer that does badly without.

nextpnr's HeAP draws a design together at its pins, and then pushes memories to wherever there are sites. Those of a large machine end up
far from their logic, and the wires to them cannot be routed. With the sites given, it places the rest well.

`rough_sites` finds them from the netlist alone, by about the method of SimPL (Kim, Lee and Markov, 2012): solve for short wires, spread the
cells evenly, draw each to where it has been spread, more strongly in each round. `near_sites` finds them from a placement of all other
cells. Both take the assignment of memories to sites that moves them least.
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
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import cg

Cells = Mapping[str, Mapping[str, Any]]
"""Of a module in Yosys's JSON, by name."""

Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]

ROUNDS = 100

PULL = 0.01
"""Of a cell towards where it has been spread, in the first round; an ordinary wire pulls with a weight about 1."""

MEMORY_PULL = 20.0
"""A memory has few sites, and is drawn to its own that many times more strongly."""

STRIPS = 24
"""In which cells are spread evenly from left to right, and then each from top to bottom."""

WIDE_NET = 2000
"""Pins from which on a net, such as the clock, says nothing about places."""

NEAR_NET = 120
"""The same for the places of memories among cells that have theirs."""

LARGE_MEMORY = 9
"""Blocks from which on a memory is large: one whose blocks give way to others."""

SMALL_FIRST = 10.0
"""How much more the distance of a small memory's block from its place counts."""


_Wires = tuple[Numbers, Numbers, Floats]
"""Springs: start, end, strength."""


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


def rough_sites(
    cells: Cells, areas: Mapping[str, float], memory: str, sites: Sequence[Site], region: Region
) -> dict[str, Site]:
    """Find sites from a netlist alone.

    Parameters
    ----------
    cells : Cells
    areas : mapping of str to float
        By type of cell, in look-up tables; cells of other types are left out.
    memory : str
        Type of cell that goes to `sites`.
    sites : sequence of Site
        As many as there are memories, or more.
    region : Region
        What the others are spread over.

    Returns
    -------
    dict of str to Site
        For each memory its own.
    """
    names = [name for name, cell in cells.items() if cell["type"] in areas or cell["type"] == memory]
    types = [cells[name]["type"] for name in names]
    area = np.array([areas.get(kind, 0.0) for kind in types])
    held = np.flatnonzero([kind == memory for kind in types])
    assignment = _Assignment([names[cell] for cell in held], sites)
    wires, points = _wires(_nets(cells, names), len(names))
    at = np.random.default_rng(0).normal(size=(points, 2))
    chosen = np.zeros(0, np.intp)
    pull = np.zeros(points)
    for number in range(ROUNDS):
        goal = np.zeros_like(at)
        goal[: len(names)] = _spread(at[: len(names)], area, region)
        chosen = assignment.nearest(goal[held])
        goal[held] = assignment.places[chosen]
        pull[: len(names)] = PULL * (number + 1)
        pull[held] *= MEMORY_PULL
        at = np.stack([_drawn(wires, at[:, axis], goal[:, axis], pull, number == 0) for axis in (0, 1)], 1)
    return assignment.named(chosen)


def near_sites(
    cells: Cells, places: Mapping[str, tuple[int, int]], memory: str, sites: Sequence[Site]
) -> dict[str, Site]:
    """Find sites near to the cells that memories are connected to.

    Parameters
    ----------
    cells : Cells
        After placement.
    places : mapping of str to (int, int)
        Column and row of each cell.
    memory, sites
        As in `rough_sites`.

    Returns
    -------
    dict of str to Site
        For each memory its own; one that is connected to nothing is left out.
    """
    names = list(places)
    is_memory = np.array([cells[name]["type"] == memory for name in names])
    at = np.array([places[name] for name in names], float)
    total, weights = np.zeros((len(names), 2)), np.zeros(len(names))
    for ends in _nets(cells, names):
        others = ends[~is_memory[ends]]
        if len(others) and len(ends) <= NEAR_NET:
            # a pin of a net of many says less
            weight = len(ends) ** -0.5
            held = ends[is_memory[ends]]
            total[held] += weight * at[others].mean(0)
            weights[held] += weight
    held = np.flatnonzero(weights)
    assignment = _Assignment([names[cell] for cell in held], sites)
    return assignment.named(assignment.nearest(total[held] / weights[held, None]))


class _Assignment:
    """Assigns memories to sites, so that they move little."""

    def __init__(self, names: list[str], sites: Sequence[Site]) -> None:
        self._names = names
        self._sites = sites
        self.places = np.array([(site.column, site.row) for site in sites], float).reshape(-1, 2)
        # numbers in their names count the blocks of a memory
        stems = [re.sub(r"\d+", "#", name) for name in names]
        blocks = Counter(stems)
        self._importance = np.array([1.0 if blocks[stem] >= LARGE_MEMORY else SMALL_FIRST for stem in stems])

    def nearest(self, wanted: Floats) -> Numbers:
        """Return the number of each memory's site, near to where it is `wanted`."""
        distance = np.abs(wanted[:, None, :] - self.places[None]).sum(2)
        # more than in proportion: none is to go far
        _, chosen = linear_sum_assignment(self._importance[:, None] * distance**1.5)
        return np.asarray(chosen)

    def named(self, chosen: Numbers) -> dict[str, Site]:
        """Return the site of each memory by its name."""
        return {name: self._sites[number] for name, number in zip(self._names, chosen, strict=True)}


def _spread(at: Floats, area: Floats, region: Region) -> Floats:
    """Return places that fill the region evenly, in about the order of `at`."""
    across = _shares(at[:, 0], area)
    strips = np.minimum((across * STRIPS).astype(int), STRIPS - 1)
    down = np.empty(len(at))
    for strip in range(STRIPS):
        within = np.flatnonzero(strips == strip)
        down[within] = _shares(at[within, 1], area[within])
    return np.stack([region.left + across * region.width, region.top + down * region.height], 1)


def _drawn(wires: _Wires, at: Floats, goal: Floats, pull: Floats, first: bool) -> Floats:
    """Return the coordinates at which short wires and the pull towards the goal are in balance.

    Springs that are weaker the longer their wire is now make the sum of lengths the least, not that of their squares.
    """
    start, end, weight = wires
    weight = weight if first else 10 * weight / (np.abs(at[start] - at[end]) + 2)
    between = coo_array((weight, (start, end)), (len(at), len(at))).tocsr()
    between = between + between.T
    total = between.sum(1) + pull
    system = (diags_array(total) - between).tocsr()
    inverse = diags_array(1 / np.maximum(total, 1e-9))
    solved, _ = cg(system, pull * goal, x0=None if first else at, rtol=1e-4, maxiter=100, M=inverse)
    return np.asarray(solved)


def _shares(values: Floats, areas: Floats) -> Floats:
    """Return for each cell which share of the whole area lies before it, in order of its value: 0 to 1."""
    order = np.argsort(values, kind="stable")
    behind = np.cumsum(areas[order])
    shares = np.empty(len(values))
    shares[order] = (behind - areas[order] / 2) / max(behind[-1], 1e-9) if len(values) else 0
    return shares


def _nets(cells: Cells, names: Sequence[str]) -> list[Numbers]:
    """Return for each net which of the cells it connects."""
    nets: dict[int, set[int]] = defaultdict(set)
    for number, name in enumerate(names):
        for bits in cells[name]["connections"].values():
            for bit in bits:
                # constants are strings
                if isinstance(bit, int):
                    nets[bit].add(number)
    return [np.array(sorted(ends), np.intp) for ends in nets.values() if 2 <= len(ends) <= WIDE_NET]


def _wires(nets: Sequence[Numbers], cells: int) -> tuple[_Wires, int]:
    """Return springs (start, end, strength) that stand for the nets, and the number of points that they connect.

    Small nets have one between every two pins, others a point of their own in the middle, behind the `cells`.
    """
    points = cells
    start, end, weight = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)], [np.zeros(0)]
    for ends in nets:
        pins = len(ends)
        if pins <= 4:
            first, second = np.triu_indices(pins, 1)
            start.append(ends[first])
            end.append(ends[second])
            weight.append(np.full(len(first), 1 / (pins - 1)))
        else:
            start.append(ends)
            end.append(np.full(pins, points))
            weight.append(np.full(pins, pins / (pins - 1)))
            points += 1
    return (np.concatenate(start), np.concatenate(end), np.concatenate(weight)), points
