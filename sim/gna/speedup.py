"""The simulator's verdict: what a tiling makes of a pattern, compared with dense attention."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from hwattn.sim.gna import sparsity
from hwattn.sim.gna.tiles import check_additional

if TYPE_CHECKING:
    from hwattn.sim.gna.pattern import Pattern


@dataclass(frozen=True)
class Speedup:
    """Speedup over dense self-attention, three ways, and the tile counts behind it.

    Attributes
    ----------
    flopwise : float
        Pairs of dense attention over unmasked pairs: N / (window volume) without causality. The
        bound that a kernel with tiles of one token would reach.
    simulated : float
        Dense KV tiles per Q tile over the most visited by any Q tile (the paper's metric).
    mean : float
        The same over the mean visit count: what the work of a whole kernel follows.
    max_visited, mean_visited : int, float
        KV tiles per Q tile (Q tiles per KV tile for the backward pass).
    dense_tiles : int
        Tiles that dense attention of the undilated layout visits.
    tiles : int
        Tiles that iterate: Q tiles forward, KV tiles backward.
    block_sparse : bool
        No visited tile needs a fine-grained mask.
    reasons : tuple of str
        Why not, axis by axis; empty when ``block_sparse``.
    """

    flopwise: float
    simulated: float
    mean: float
    max_visited: int
    mean_visited: float
    dense_tiles: int
    tiles: int
    block_sparse: bool
    reasons: tuple[str, ...]


def visit_statistics(
    pattern: Pattern,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    tiling: str,
    backward: bool = False,
) -> tuple[int, float, int]:
    """Most visits, mean visits and number of tiles.

    Notes
    -----
    Visits are products of per-axis visits, so the maximum and the mean are products of the per-axis
    maxima and means; only the flat tiling looks at every tile. Tiles of padding alone (the shorter
    dilation groups) are left out.
    """
    if tiling == "flat":
        visits = (
            pattern.visited_q_tiles(q_tile, kv_tile, "flat")
            if backward
            else pattern.visited_kv_tiles(q_tile, kv_tile, "flat")
        )
        return int(visits.max()), float(visits.mean()), visits.size
    most, total, tiles = 1, 1, 1
    extents = kv_tile if backward else q_tile
    per_axis = pattern.axis_counts(q_tile, kv_tile, tiling, backward)
    for axis, extent, groups in zip(pattern.axes, extents, per_axis, strict=True):
        most *= max(int(counts.max()) for counts in groups)
        total *= sum(int(counts.sum()) for counts in groups)
        tiles *= int((-(-axis.group_lengths() // extent)).sum())
    return most, total / tiles, tiles


def measure_speedup(
    pattern: Pattern, q_tile: Any, kv_tile: Any, tiling: str, additional_kv: int, backward: bool
) -> Speedup:
    """Speedups of one pattern under one tiling; the body of :meth:`Pattern.speedup`."""
    q_shape, kv_shape = pattern.tile_shapes(q_tile, kv_tile, tiling)
    most, mean, tiles = visit_statistics(pattern, q_shape, kv_shape, tiling, backward)
    inner = q_shape if backward else kv_shape
    if tiling == "flat":
        dense = -(-pattern.tokens // prod(inner))
    else:
        dense = prod(-(-length // extent) for length, extent in zip(pattern.layout, inner, strict=True))
    check_additional(additional_kv)
    extra = 0 if backward else -(-additional_kv // prod(kv_shape))
    pairs = pattern.unmasked_pairs + pattern.tokens * additional_kv
    reasons = (
        sparsity.flat_reasons(pattern)
        if tiling == "flat"
        else sparsity.reasons(pattern, q_shape, kv_shape, tiling)
    )
    return Speedup(
        flopwise=pattern.tokens * (pattern.tokens + additional_kv) / pairs,
        simulated=(dense + extra) / (most + extra),
        mean=(dense + extra) / (mean + extra),
        max_visited=most + extra,
        mean_visited=mean + extra,
        dense_tiles=dense + extra,
        tiles=tiles,
        block_sparse=not reasons,
        reasons=reasons,
    )
