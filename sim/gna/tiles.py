"""Which tiles meet: closed-form counts of the KV tiles that each Q tile visits, and the inverse.

Multi-dimensional tilings are separable, so a count is a product of per-axis counts, and a layout of
a million tokens costs microseconds. Only the single-dimensional ("flat") tiling of an ordinary
FMHA kernel has no closed form; there the windows of a Q tile are rasterized.

Sources: arXiv 2504.16922, section 4 (tilings, NATTENSim); DESIGN of the counts in ``docs/gna.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from hwattn.sim.gna.axis import Axis, IntArray, axis_windows, group_windows, window_ends, window_starts
from hwattn.spec.errors import RefusedError

TILINGS = ("static", "dynamic", "flat")
MAX_TILES = 1 << 24
MAX_FLAT_TOKENS = 1 << 20
MAX_FLAT_CELLS = 1 << 28


@lru_cache(maxsize=4096)
def _tile_edges(n: int, tile: int) -> IntArray:
    """First and last token of each tile, (2, tiles); the last may lie in the padding."""
    first = np.arange(0, n, tile, dtype=np.int64)
    edges = np.stack([first, first + (tile - 1)])
    edges.setflags(write=False)
    return edges


@lru_cache(maxsize=65536)
def axis_visits(axis: Axis, n: int, q_tile: int, kv_tile: int, tiling: str = "static") -> IntArray:
    """KV tiles that each Q tile of one dilation group visits along one axis.

    Parameters
    ----------
    axis : Axis
    n : int
        Tokens of the dilation group.
    q_tile, kv_tile : int
        Tile extents along this axis, in tokens of the group.
    tiling : {"static", "dynamic"}
        Static: KV tiles lie on a fixed grid. Dynamic: they start at the first key that the Q tile
        needs (fused kernels that cut the KV region out first).

    Returns
    -------
    numpy.ndarray of int64, shape (ceil(ceil(length / dilation) / q_tile),)
        Every dilation group is padded to the Q tiles of the longest one, as in NATTEN's layout; a
        tile that holds nothing but padding visits 0.

    Notes
    -----
    Window starts and ends are monotone in the query, so a Q tile with queries a..b needs exactly
    the keys [start(a), end(b)). Queries beyond ``n - 1`` are padding and never widen the range.
    """
    edges = _tile_edges(axis.group_length(0), q_tile)
    starts = window_starts(edges, n, axis)
    low = starts[0]
    high = window_ends(edges[1], n, axis) if axis.causal else starts[1] + axis.window
    counts: IntArray
    if tiling == "dynamic":
        counts = -((low - high) // kv_tile)
    else:
        counts = -(-high // kv_tile) - low // kv_tile
    counts[-(-n // q_tile) :] = 0
    counts.setflags(write=False)
    return counts


@lru_cache(maxsize=4096)
def axis_visits_backward(axis: Axis, n: int, q_tile: int, kv_tile: int, tiling: str = "static") -> IntArray:
    """Q tiles that each KV tile of one dilation group meets along one axis (backward pass).

    Returns
    -------
    numpy.ndarray of int64, shape (ceil(ceil(length / dilation) / kv_tile),)

    Notes
    -----
    The queries that see any key of ka..kb are those with ``start <= kb`` and ``end > ka``; both are
    monotone, so they are a contiguous run, found by bisection. A key that nobody sees counts 0.
    """
    starts, ends = group_windows(axis, n)
    first_key = np.arange(0, axis.group_length(0), kv_tile, dtype=np.int64)
    last_key = np.minimum(first_key + kv_tile - 1, n - 1)
    low = np.searchsorted(ends, first_key, side="right")
    high = np.searchsorted(starts, last_key, side="right")
    if tiling == "dynamic":
        counts = -((low - high) // q_tile)
    else:
        counts = -(-high // q_tile) - low // q_tile
    return np.where((high > low) & (first_key < n), counts, 0).astype(np.int64)


def check_additional(additional_kv: int) -> int:
    """Refuse a negative number of extra context tokens."""
    if additional_kv < 0:
        raise RefusedError(f"additional_kv {additional_kv}", "0 or more", "correct additional_kv")
    return additional_kv


def group_products(axes: Sequence[Axis], per_axis: Sequence[Sequence[IntArray]]) -> IntArray:
    """Counts of all tiles from per-axis counts.

    Parameters
    ----------
    axes : sequence of Axis
    per_axis : sequence (axis) of sequences (dilation group) of int arrays

    Returns
    -------
    numpy.ndarray of int64, shape (tiles,)
        Row-major over tiles inside a dilation group; groups, row-major over axes, outermost.
    """
    listed = prod(sum(counts.size for counts in groups) for groups in per_axis)
    if listed > MAX_TILES:
        raise RefusedError(
            f"{listed} tiles listed one by one", f"at most {MAX_TILES}", "use speedup(), which needs no list"
        )
    blocks: list[IntArray] = []
    for group in product(*(range(axis.dilation) for axis in axes)):
        block = per_axis[0][group[0]]
        for counts, g in zip(per_axis[1:], group[1:], strict=True):
            block = (block[:, None] * counts[g]).reshape(-1)
        blocks.append(block)
    # counts of one axis are shared and read-only
    return np.concatenate(blocks) if len(blocks) > 1 or len(axes) == 1 else blocks[0]


def _leading_keys(
    windows: Sequence[IntArray], coordinates: Sequence[int], lengths: Sequence[int]
) -> IntArray:
    """Row-major indices of the visible combinations of all axes but the last."""
    rows = np.zeros(1, dtype=np.int64)
    for axis_rows, coordinate, length in zip(windows, coordinates, lengths, strict=True):
        keys = np.arange(*axis_rows[coordinate], dtype=np.int64)
        rows = (rows[:, None] * length + keys[None, :]).reshape(-1)
    return rows


def flat_visit_matrix(axes: Sequence[Axis], q_tile: int, kv_tile: int) -> npt.NDArray[np.bool_]:
    """Which KV tiles each Q tile touches when the layout is flattened row-major.

    Parameters
    ----------
    axes : sequence of Axis
    q_tile, kv_tile : int
        Consecutive tokens per tile.

    Returns
    -------
    numpy.ndarray of bool, shape (ceil(N / q_tile), ceil(N / kv_tile))

    Notes
    -----
    A run of queries in one row of the last axis needs, without dilation, one interval of keys in
    each visible key row; its tiles are marked through a difference array. With dilation on the
    last axis the keys are marked one by one.
    """
    lengths = [axis.length for axis in axes]
    total, row_length = prod(lengths), lengths[-1]
    if total > MAX_FLAT_TOKENS or -(-total // q_tile) * -(-total // kv_tile) > MAX_FLAT_CELLS:
        raise RefusedError(
            f"flat tiling of {total} tokens in tiles of {q_tile} and {kv_tile}",
            f"at most {MAX_FLAT_TOKENS} tokens and {MAX_FLAT_CELLS} pairs of tiles",
            "use larger tiles, or a multi-dimensional tiling, which has a closed form",
        )
    windows = [axis_windows(axis) for axis in axes]
    kv_tiles = -(-total // kv_tile)
    touched = np.zeros((-(-total // q_tile), kv_tiles), dtype=np.bool_)
    for tile in range(touched.shape[0]):
        depth = np.zeros(kv_tiles + 1, dtype=np.int64)
        position, stop = tile * q_tile, min((tile + 1) * q_tile, total)
        while position < stop:
            row, column = divmod(position, row_length)
            run = min(stop - position, row_length - column)
            leading = np.unravel_index(row, lengths[:-1]) if len(lengths) > 1 else ()
            rows = _leading_keys(windows[:-1], [int(c) for c in leading], lengths[:-1]) * row_length
            last = windows[-1][column : column + run]
            if axes[-1].dilation == 1:
                low = (rows + last[0, 0]) // kv_tile
                high = (rows + last[-1, 1] - 1) // kv_tile
                depth += np.bincount(low, minlength=kv_tiles + 1)
                depth -= np.bincount(high + 1, minlength=kv_tiles + 1)
            else:
                keys = np.unique(np.concatenate([np.arange(*window) for window in last]))
                touched[tile, (rows[:, None] + keys[None, :]) // kv_tile] = True
            position += run
        touched[tile] |= np.cumsum(depth[:-1]) > 0
    return touched
