"""Visit counts of a million patterns at once: the closed forms of ``tiles`` over arrays of cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwattn.sim.gna.axis import IntArray
from hwattn.spec.errors import RefusedError

_BLOCK = 1 << 15


@dataclass(frozen=True)
class VisitCounts:
    """Counts of many cases, each array of shape (cases,).

    Attributes
    ----------
    max_visited : ndarray of int64
        Most KV tiles that a Q tile visits.
    mean_visited : ndarray of float64
        Mean over all Q tiles.
    dense_tiles : ndarray of int64
        KV tiles of dense attention of the undilated layout.
    """

    max_visited: IntArray
    mean_visited: npt.NDArray[np.float64]
    dense_tiles: IntArray

    @property
    def simulated(self) -> npt.NDArray[np.float64]:
        """Maximum-based speedup over dense attention."""
        speedup: npt.NDArray[np.float64] = self.dense_tiles / self.max_visited
        return speedup

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean-based speedup over dense attention."""
        speedup: npt.NDArray[np.float64] = self.dense_tiles / self.mean_visited
        return speedup


def _group_statistics(n: IntArray, columns: IntArray, dynamic: bool) -> tuple[IntArray, IntArray, IntArray]:
    """Most visits, sum of visits and Q tiles of dilation groups of ``n`` tokens; each (cases,)."""
    window, stride, causal, q_tile, kv_tile = columns
    tiles = -(-n // q_tile)
    bounds = np.cumsum(tiles)
    offsets = bounds - tiles

    def spread(values: IntArray) -> IntArray:
        return np.repeat(values, tiles)

    first = (np.arange(int(bounds[-1])) - spread(offsets)) * spread(q_tile)
    last = first + spread(q_tile) - 1
    w, s, c, last_position = spread(window), spread(stride), spread(causal) != 0, spread(n) - 1
    reach = np.where(c, s - 1, s // 2)
    begin_leader = np.minimum(first - first % s + reach, last_position)
    end_leader = np.minimum(last - last % s + reach, last_position)
    limit = last_position + 1 - w
    low = np.where(
        c, np.maximum(begin_leader - w + 1, 0), np.minimum(np.maximum(begin_leader - w // 2, 0), limit)
    )
    high = np.where(
        c, np.minimum(last, last_position) + 1, np.minimum(np.maximum(end_leader - w // 2, 0), limit) + w
    )
    t = spread(kv_tile)
    counts = -((low - high) // t) if dynamic else -(-high // t) - low // t
    return np.maximum.reduceat(counts, offsets), np.add.reduceat(counts, offsets), tiles


def _axis_statistics(axis: IntArray, dynamic: bool) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Maximum and mean visits along one axis; ``axis`` is (7, cases): length, dilation, then the rest."""
    length, dilation, columns = axis[0], axis[1], axis[2:]
    longer = -(-length // dilation)
    most, total, tiles = _group_statistics(longer, columns, dynamic)
    shorter = length // dilation
    uneven = np.flatnonzero(shorter != longer)
    weight = np.where(shorter == longer, dilation, length % dilation)
    total, tiles = total * weight, tiles * weight
    if uneven.size:
        low_most, low_total, low_tiles = _group_statistics(shorter[uneven], columns[:, uneven], dynamic)
        rest = (dilation - length % dilation)[uneven]
        most[uneven] = np.maximum(most[uneven], low_most)
        total[uneven] += rest * low_total
        tiles[uneven] += rest * low_tiles
    return most, total / tiles


def count_visits(
    layout: npt.ArrayLike,
    window: npt.ArrayLike,
    stride: npt.ArrayLike = 1,
    dilation: npt.ArrayLike = 1,
    causal: npt.ArrayLike = False,
    *,
    q_tile: npt.ArrayLike,
    kv_tile: npt.ArrayLike,
    tiling: str = "static",
) -> VisitCounts:
    """Visit counts of many cases of one rank.

    Parameters
    ----------
    layout : array_like of int, shape (cases, rank)
    window, stride, dilation, causal, q_tile, kv_tile : array_like
        Broadcast to the shape of ``layout``.
    tiling : {"static", "dynamic"}

    Returns
    -------
    VisitCounts
        Equal, case by case, to what ``Pattern(...).speedup(...)`` counts.

    Raises
    ------
    RefusedError
        A case that is not valid; the first one is named.
    """
    if tiling not in ("static", "dynamic"):
        raise RefusedError(f"tiling {tiling!r}", "static or dynamic", "the flat tiling has no closed form")
    lengths = np.asarray(layout, dtype=np.int64)
    if lengths.ndim != 2 or not 1 <= lengths.shape[1] <= 3 or not lengths.shape[0]:
        raise RefusedError(f"layouts of shape {lengths.shape}", "(cases, 1 to 3 axes)", "one row per case")
    given = (dilation, window, stride, causal, q_tile, kv_tile)
    stack = np.stack(
        [lengths, *(np.broadcast_to(np.asarray(g, dtype=np.int64), lengths.shape) for g in given)]
    )
    _check(stack)
    cases, rank = lengths.shape
    most = np.ones(cases, dtype=np.int64)
    mean = np.ones(cases)
    for begin in range(0, cases, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        for index in range(rank):
            axis_most, axis_mean = _axis_statistics(stack[:, block, index], tiling == "dynamic")
            most[block] *= axis_most
            mean[block] *= axis_mean
    return VisitCounts(most, mean, np.prod(-(-lengths // stack[6]), axis=1))


def _check(stack: IntArray) -> None:
    length, dilation, window, stride, _, q_tile, kv_tile = stack
    smallest = np.minimum.reduce([dilation, stride, q_tile, kv_tile])
    wrong = (window < 2) | (smallest < 1) | (stride > window) | (window * dilation > length)
    if wrong.any():
        case, axis = (int(i) for i in np.argwhere(wrong)[0])
        raise RefusedError(
            f"case {case}, axis {axis}: length {length[case, axis]}, window {window[case, axis]}, "
            f"stride {stride[case, axis]}, dilation {dilation[case, axis]}",
            "2 <= window, window * dilation <= length, 1 <= stride <= window, tiles of at least 1",
            "correct the case",
        )
