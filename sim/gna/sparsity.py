"""Perfect block sparsity: when no visited tile needs a fine-grained mask, and why not otherwise.

Two answers are kept apart: the exact one, from the windows, and the conservative test that
NATTEN's kernels run on the host to decide whether to apply a mask (:func:`kernel_skips_mask`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hwattn.sim.gna.axis import Axis, window_ends, window_starts

if TYPE_CHECKING:
    from hwattn.sim.gna.pattern import Pattern


@lru_cache(maxsize=65536)
def axis_is_block_sparse(axis: Axis, n: int, q_tile: int, kv_tile: int, tiling: str) -> bool:
    """Whether every visited tile of one dilation group is wholly visible along one axis.

    All queries of a Q tile must share one window, and the window must begin and end on tile
    boundaries; a last KV tile that sticks out of the axis needs a (cheaper) bounds mask and so
    breaks perfection too.
    """
    if not axis.causal and axis.window % kv_tile:
        return False
    first = np.arange(0, n, q_tile, dtype=np.int64)
    last = np.minimum(first + q_tile - 1, n - 1)
    low, high = window_starts(first, n, axis), window_ends(last, n, axis)
    shared = (low == window_starts(last, n, axis)) & (high == window_ends(first, n, axis))
    origin = low if tiling == "dynamic" else np.zeros_like(low)
    aligned = ((low - origin) % kv_tile == 0) & ((high - origin) % kv_tile == 0)
    return bool(np.all(shared & aligned))


def _axis_reason(index: int, axis: Axis, n: int, q_tile: int, kv_tile: int, tiling: str) -> str:
    """The most telling reason why an axis needs a mask."""
    where = f"axis {index}"
    if axis.causal:
        return f"{where}: a causal axis always needs a mask inside its diagonal tiles"
    if axis.stride % q_tile and axis.window < n:
        return f"{where}: stride {axis.stride} is not a multiple of Q tile {q_tile}"
    if axis.window % kv_tile:
        return f"{where}: window {axis.window} is not a multiple of KV tile {kv_tile}"
    starts = window_starts(np.arange(0, n, q_tile, dtype=np.int64), n, axis)
    misaligned = starts[starts % kv_tile != 0]
    if misaligned.size and tiling == "static":
        return f"{where}: a window starts at key {int(misaligned[0])}, not at a multiple of KV tile {kv_tile}"
    return f"{where}: a Q tile of {q_tile} queries holds queries with different windows"


@lru_cache(maxsize=16384)
def _axis_reasons(index: int, axis: Axis, q_tile: int, kv_tile: int, tiling: str) -> tuple[str, ...]:
    for n in sorted(set(axis.group_lengths().tolist()), reverse=True):
        if not axis_is_block_sparse(axis, n, q_tile, kv_tile, tiling):
            return (_axis_reason(index, axis, n, q_tile, kv_tile, tiling),)
    return ()


def reasons(
    pattern: Pattern, q_tile: tuple[int, ...], kv_tile: tuple[int, ...], tiling: str
) -> tuple[str, ...]:
    """Why a multi-dimensional tiling of a pattern needs a mask, one sentence per failing axis.

    Empty when the pattern is perfectly block-sparse. Axes count from 0, as in the layout.
    """
    found: tuple[str, ...] = ()
    for index, (axis, tq, tkv) in enumerate(zip(pattern.axes, q_tile, kv_tile, strict=True)):
        found += _axis_reasons(index, axis, tq, tkv, tiling)
    return found


def flat_reasons(pattern: Pattern) -> tuple[str, ...]:
    """Why the flat tiling needs a mask; only dense patterns do without."""
    if pattern.is_dense:
        return ()
    return ("flat tiling: tiles of consecutive tokens cut across the windows of the layout",)


def _axis_predicate(axis: Axis, n: int, q_tile: int, kv_tile: int) -> bool:
    if axis.causal:
        return False
    if axis.window == n:
        return True
    window, stride = axis.window, axis.stride
    if stride % q_tile or window % kv_tile:
        return False
    last_start = int(window_starts(np.int64(n - 1), n, axis))
    if n % stride and last_start % kv_tile:
        return False
    if (window // 2 - stride // 2) % kv_tile == 0:
        return True
    two_groups = -(-n // stride) == 2 and stride + stride // 2 >= n - window
    return n % kv_tile == 0 and two_groups


@lru_cache(maxsize=65536)
def axis_skips_mask(axis: Axis, q_tile: int, kv_tile: int) -> bool:
    """NATTEN's host-side test for one axis (all dilation groups): no mask needed.

    Sound for tile extents of at least 2 and mildly conservative. A single failing axis makes the
    kernel mask every tile.
    """
    return all(_axis_predicate(axis, n, q_tile, kv_tile) for n in set(axis.group_lengths().tolist()))


def kernel_skips_mask(
    pattern: Pattern, q_tile: tuple[int, ...], kv_tile: tuple[int, ...], tiling: str
) -> bool:
    """Whether NATTEN's kernel runs without its fine-grained mask.

    The fast path is an ordinary attention kernel, which when causal masks only the tiles on its
    diagonal. Static tilings use the kernels' predicate; with dynamic tiling it is enough that the KV tile
    divides the window and the Q tile divides the stride (arXiv 2504.16922, section 4.3), which the
    exact test covers.
    """
    if tiling == "flat":
        return pattern.is_dense
    if pattern.takes_fast_path:
        return True
    if tiling == "dynamic":
        return not reasons(pattern, q_tile, kv_tile, tiling)
    return all(axis_skips_mask(a, tq, tkv) for a, tq, tkv in zip(pattern.axes, q_tile, kv_tile, strict=True))
