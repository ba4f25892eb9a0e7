"""Strides worth trying: on each axis only those that save tiles (arXiv 2504.16922, Figure 3 and Tables 2 to 4)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product

from hwattn.sim.gna.axis import Axis
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.sparsity import axis_is_block_sparse, axis_skips_mask
from hwattn.sim.gna.tiles import axis_visits

EVERY_STRIDE = 1024
"""Up to here every stride is tried; beyond, multiples of the Q tile."""


@lru_cache(maxsize=4096)
def axis_strides(
    axis: Axis, q_tile: int, kv_tile: int, tiling: str, unmasked: bool = False
) -> tuple[int, ...]:
    """Strides of one axis, each of which visits fewer tiles than every smaller one.

    Parameters
    ----------
    axis : Axis
        Its own stride does not matter.
    q_tile, kv_tile : int
    tiling : {"static", "dynamic"}
    unmasked : bool
        Also keep the smallest stride that needs no mask on this axis: it may visit as many tiles as a
        smaller one, but the kernel is faster without a mask.
    """
    lengths = set(axis.group_lengths().tolist())
    # some query sees a whole window, so no stride visits fewer tiles than that
    bound = -(-axis.window // kv_tile)
    kept: list[int] = []
    fewest = None
    plain = None
    for stride in range(1, axis.window + 1):
        if fewest == bound and (not unmasked or plain is not None or axis.window % kv_tile):
            break
        if (fewest == bound or stride > EVERY_STRIDE) and stride % q_tile:
            continue
        candidate = replace(axis, stride=stride)
        visits = max(int(axis_visits(candidate, n, q_tile, kv_tile, tiling).max()) for n in lengths)
        if fewest is None or visits < fewest:
            fewest = visits
            kept.append(stride)
        if unmasked and plain is None and _needs_no_mask(candidate, q_tile, kv_tile, tiling):
            plain = stride
    if plain is not None and plain not in kept:
        kept = sorted([*kept, plain])
    return tuple(kept)


def _needs_no_mask(axis: Axis, q_tile: int, kv_tile: int, tiling: str) -> bool:
    if axis.stride % q_tile or axis.window % kv_tile:
        return axis.is_dense
    if tiling == "static":
        return axis_skips_mask(axis, q_tile, kv_tile)
    return all(
        axis_is_block_sparse(axis, n, q_tile, kv_tile, tiling) for n in set(axis.group_lengths().tolist())
    )


def pruned_strides(
    pattern: Pattern,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    tiling: str = "static",
    unmasked: bool = False,
) -> list[tuple[int, ...]]:
    """Every combination of the strides that :func:`axis_strides` keeps, in lexicographic order."""
    per_axis = [
        axis_strides(replace(axis, stride=1), tq, tkv, tiling, unmasked)
        for axis, tq, tkv in zip(pattern.axes, q_tile, kv_tile, strict=True)
    ]
    return list(product(*per_axis))
