"""Search over windows, strides and tile shapes for the fastest and the most local pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from hwattn.sim.gna.backends import Backend, backends_of, get_backend, tile_pairs
from hwattn.sim.gna.calibration import FILL_TILES
from hwattn.sim.gna.gpus import Gpu, get_gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import Problem, Projection, project_tiles
from hwattn.sim.gna.sparsity import kernel_skips_mask
from hwattn.sim.gna.speedup import Speedup, visit_statistics
from hwattn.sim.gna.strides import pruned_strides
from hwattn.sim.gna.tiles import MAX_TILES
from hwattn.sim.gna.timing import kernel_model
from hwattn.spec.errors import RefusedError

MAX_WINDOWS = 24
SPARSITY_TOLERANCE = 0.01
EXACT_CANDIDATES = 60


@dataclass(frozen=True)
class Candidate:
    """One choice of window, stride and tiles with what it costs and keeps.

    Attributes
    ----------
    pattern : Pattern
    projection : Projection
    speedup : Speedup
        Tile counts.
    locality : float
        Share of the stride-1 neighborhood that the stride keeps, 0 to 1.
    on_front : bool
        No other candidate is both faster and at least as local.
    """

    pattern: Pattern
    projection: Projection
    speedup: Speedup
    locality: float
    on_front: bool


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes
    ----------
    candidates : tuple of Candidate
        Fastest first: the fastest and all of the Pareto front, scheduled exactly.
    considered : int
        Combinations of window, stride and tiles that were estimated.
    """

    candidates: tuple[Candidate, ...]
    considered: int

    @property
    def best(self) -> Candidate:
        """The fastest candidate."""
        return self.candidates[0]

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The Pareto front by time and locality, fastest first."""
        return tuple(candidate for candidate in self.candidates if candidate.on_front)


def windows_of_sparsity(layout: Sequence[int], sparsity: float, step: int = 8) -> list[tuple[int, ...]]:
    """Windows near a sparsity, in the layout's proportions first.

    Parameters
    ----------
    layout : sequence of int
    sparsity : float
        1 - (window volume) / N, within 0.01 (or the nearest there is).
    step : int
        Window extents are multiples of it, besides the whole axis and 2, 4 ... below it.

    Returns
    -------
    list of tuple of int
        At most ``MAX_WINDOWS``.
    """
    layout = Pattern(layout, 2).layout
    if not 0 <= sparsity < 1:
        raise RefusedError(
            f"sparsity {sparsity}", "a number from 0 to below 1", "0.9 keeps a tenth of the keys"
        )
    extents = [sorted({*range(2, min(step, n), 2), *range(step, n + 1, step), n} - {0, 1}) for n in layout]
    grids = np.meshgrid(*(np.array(axis, dtype=np.float64) for axis in extents), indexing="ij")
    windows = np.stack([grid.ravel() for grid in grids], axis=1)
    shares = windows / np.array(layout, dtype=np.float64)
    side = (1 - sparsity) ** (1 / len(layout))
    miss = np.abs(1 - shares.prod(axis=1) - sparsity)
    near = np.flatnonzero(miss <= SPARSITY_TOLERANCE)
    if not near.size:
        near = np.array([int(np.argmin(miss))])
    order = np.argsort(np.abs(shares[near] - side).sum(axis=1), kind="stable")
    return [tuple(int(w) for w in windows[index]) for index in near[order][:MAX_WINDOWS]]


def _combinations(
    windows: Sequence[Any],
    layout: Any,
    dilation: Any,
    causal: Any,
    gpu: Gpu,
    backends: list[Backend],
    problem: Problem,
) -> Iterator[tuple[Pattern, Backend, tuple[int, ...], tuple[int, ...]]]:
    for window in windows:
        base = Pattern(layout, window, dilation=dilation, causal=causal)
        for backend in backends:
            pairs = tile_pairs(
                backend.name, base.rank, gpu.cc, problem.head_dim, problem.dtype, problem.backward
            )
            for q_tile, kv_tile in pairs:
                for stride in pruned_strides(base, q_tile, kv_tile, backend.tiling, unmasked=True):
                    yield (
                        Pattern(base.layout, base.window, stride, base.dilation, base.causal),
                        backend,
                        q_tile,
                        kv_tile,
                    )


def _quick_ms(
    pattern: Pattern,
    gpu: Gpu,
    backend: Backend,
    problem: Problem,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
) -> float:
    """Kernel time when the work spreads evenly over the SMs, from closed-form counts, ms."""
    masked = not kernel_skips_mask(pattern, q_tile, kv_tile, backend.tiling)
    model = kernel_model(gpu, backend, q_tile, kv_tile, problem.head_dim, problem.dtype, masked)
    most, mean, tiles = visit_statistics(pattern, q_tile, kv_tile, backend.tiling, problem.backward)
    even = tiles * problem.heads * problem.batch * (mean + FILL_TILES) / gpu.sms
    return model.time_ms(max(even, most + FILL_TILES)).value


def best_tiles(
    pattern: Pattern, gpu: Gpu, backend: Backend, problem: Problem
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The backend's tile pair that a pattern runs fastest with."""
    pairs = tile_pairs(backend.name, pattern.rank, gpu.cc, problem.head_dim, problem.dtype, problem.backward)
    order = sorted(pairs, key=lambda pair: _quick_ms(pattern, gpu, backend, problem, *pair))
    return min(order[:4], key=lambda pair: project_tiles(pattern, gpu, backend, problem, *pair).total_ms)


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (time, locality) points no other point beats in time without losing locality."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    kept = [False] * len(points)
    best = -1.0
    for index in order:
        if points[index][1] > best + 1e-12:
            best = points[index][1]
            kept[index] = True
    return kept


def search(
    layout: Any,
    gpu: str | Gpu = "b200",
    *,
    heads: int,
    head_dim: int,
    window: Any = None,
    sparsity: float | None = None,
    dilation: Any = 1,
    causal: Any = False,
    backend: str | None = None,
    all_backends: bool = False,
    batch: int = 1,
    dtype: str = "fp16",
    heads_kv: int | None = None,
    backward: bool = False,
    natten_version: str = "0.20",
) -> SearchResult:
    """Find the strides and tiles (and windows) that pay on a GPU.

    Parameters
    ----------
    layout : sequence of int
    gpu : str or Gpu
    heads, head_dim, batch, dtype, heads_kv, backward, natten_version
        As in :func:`~hwattn.sim.gna.projection.project`.
    window : int or sequence of int, optional
        The window; or give ``sparsity``, and windows of that sparsity are tried.
    sparsity : float, optional
    dilation, causal
        As in :class:`Pattern`.
    backend : str, optional
        Only this backend; NATTEN's choice by default.
    all_backends : bool
        Every backend that runs on the GPU.

    Returns
    -------
    SearchResult

    Notes
    -----
    Strides are pruned as in the paper, plus the smallest stride per axis that needs no mask. All
    combinations are estimated in closed form; the fastest and the Pareto front are then scheduled tile
    by tile.
    """
    if (window is None) == (sparsity is None):
        raise RefusedError(
            "a search with both or neither of window and sparsity", "exactly one of them", "give one"
        )
    target = get_gpu(gpu)
    problem = Problem(
        heads, head_dim, heads if heads_kv is None else heads_kv, batch, dtype, 0, backward, natten_version
    )
    chosen = _search_backends(target, backend, all_backends, problem)
    shape = Pattern(layout, 2).layout
    windows = [window] if sparsity is None else windows_of_sparsity(shape, sparsity)
    _check_size(shape, target, chosen, problem)
    found = list(_combinations(windows, shape, dilation, causal, target, chosen, problem))
    quick = [(_quick_ms(p, target, b, problem, tq, tkv), p.locality) for p, b, tq, tkv in found]
    order = sorted(range(len(found)), key=lambda index: quick[index][0])
    on_front = pareto(quick)
    exact = [index for rank, index in enumerate(order) if rank < EXACT_CANDIDATES or on_front[index]]
    shown = [
        (p, project_tiles(p, target, b, problem, tq, tkv))
        for p, b, tq, tkv in (found[index] for index in exact)
    ]
    front = pareto([(projection.total_ms, pattern.locality) for pattern, projection in shown])
    candidates = [
        Candidate(
            pattern,
            projection,
            pattern.speedup(projection.q_tile, projection.kv_tile, projection.tiling, backward=backward),
            pattern.locality,
            kept,
        )
        for (pattern, projection), kept in zip(shown, front, strict=True)
    ]
    candidates.sort(key=lambda candidate: (candidate.projection.total_ms, -candidate.locality))
    return SearchResult(tuple(candidates), len(found))


def _check_size(layout: Sequence[int], gpu: Gpu, backends: list[Backend], problem: Problem) -> None:
    """Refuse a layout with more Q tiles than can be scheduled one by one, before any work."""
    for backend in backends:
        pairs = tile_pairs(
            backend.name, len(layout), gpu.cc, problem.head_dim, problem.dtype, problem.backward
        )
        area = min(prod(q_tile) for q_tile, _ in pairs)
        if prod(layout) > MAX_TILES * area:
            raise RefusedError(
                f"a layout of {prod(layout)} tokens for {backend.name}",
                f"at most {MAX_TILES * area} tokens",
                "shorten the layout",
            )


def _search_backends(gpu: Gpu, backend: str | None, all_backends: bool, problem: Problem) -> list[Backend]:
    """Backends to search: those that have kernels for the problem when all are asked for."""
    if not all_backends:
        chosen = get_backend(gpu, backend)
        chosen.check(problem.dtype, problem.head_dim, problem.backward)
        return [chosen]
    fitting = []
    for name in backends_of(gpu):
        candidate = get_backend(gpu, name)
        try:
            candidate.check(problem.dtype, problem.head_dim, problem.backward)
            tile_pairs(name, 1, gpu.cc, problem.head_dim, problem.dtype, problem.backward)
        except RefusedError:
            continue
        fitting.append(candidate)
    if not fitting:
        raise RefusedError(
            f"{problem.dtype} with head_dim {problem.head_dim} on {gpu.name}",
            "a backend that runs it",
            "change either",
        )
    return fitting
