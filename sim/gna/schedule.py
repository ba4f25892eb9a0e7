"""How long the SMs of a GPU are busy with Q tiles of unequal cost."""

from __future__ import annotations

import heapq

import numpy as np

from hwattn.sim.gna.axis import IntArray

EXACT_BLOCKS = 1 << 18
SCHEDULED_BLOCKS = 1 << 24


def persistent_makespan(costs: IntArray, workers: int) -> int:
    """Cost of the busiest worker when tile ``b`` goes to worker ``b mod workers``.

    Parameters
    ----------
    costs : ndarray of int64, shape (tiles,)
        Cost of each Q tile, in launch order.
    workers : int
        Persistent thread blocks: the SMs, or the tiles where there are fewer.
    """
    padded = np.zeros(-(-costs.size // workers) * workers, dtype=np.int64)
    padded[: costs.size] = costs
    return int(padded.reshape(-1, workers).sum(axis=0).max())


def greedy_makespan(costs: IntArray, workers: int) -> int:
    """End of the last tile when each tile, in launch order, goes to the worker that is free first.

    Exact up to ``EXACT_BLOCKS`` tiles; beyond, the largest possible value, which the number of tiles
    brings within a fraction of a percent of the exact one.
    """
    if costs.size <= workers:
        return int(costs.max())
    lowest, highest = int(costs.min()), int(costs.max())
    if lowest == highest:
        return -(-costs.size // workers) * highest
    if costs.size > EXACT_BLOCKS:
        return -(-int(costs.sum()) // workers) + highest
    free = sorted(costs[:workers].tolist())
    for cost in costs[workers:].tolist():
        heapq.heapreplace(free, free[0] + cost)
    return int(max(free))


def makespan(costs: IntArray, workers: int, scheduler: str, copies: int = 1) -> int:
    """Makespan of ``copies`` runs through the tiles (heads times batch), back to back.

    Parameters
    ----------
    costs : ndarray of int64, shape (tiles,)
    workers : int
    scheduler : {"persistent", "greedy"}
    copies : int
        Beyond ``SCHEDULED_BLOCKS`` tiles in all the result is an upper bound, which is then next to exact.
    """
    if costs.size * copies > SCHEDULED_BLOCKS:
        return -(-int(costs.sum()) * copies // workers) + int(costs.max())
    if copies > 1:
        costs = np.tile(costs, copies)
    return (
        persistent_makespan(costs, workers) if scheduler == "persistent" else greedy_makespan(costs, workers)
    )


def makespan_bounds(costs: IntArray, workers: int) -> tuple[float, float]:
    """Least and greatest makespan of any greedy schedule (Graham's bound)."""
    even, longest = float(costs.sum()) / workers, float(costs.max())
    return max(even, longest), even + longest * (1 - 1 / workers)
