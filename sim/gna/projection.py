"""What a pattern costs on a GPU: kernel, token permutation, dense baseline, each with a range."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import numpy as np

from hwattn.sim.gna.axis import IntArray
from hwattn.sim.gna.backends import Backend, get_backend, tile_pairs
from hwattn.sim.gna.data import load
from hwattn.sim.gna.gpus import Gpu, get_gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.permute import PERMUTE_SPEEDUP, copy_bandwidth, copy_ms, permute_bytes
from hwattn.sim.gna.sparsity import kernel_skips_mask
from hwattn.sim.gna.timing import DTYPE_BYTES, Range, dense_model, kernel_model
from hwattn.spec.errors import RefusedError

_NONE = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Problem:
    """Sizes of an attention problem apart from its pattern; checked.

    Parameters
    ----------
    heads, heads_kv, head_dim, batch : int
        ``heads_kv`` divides ``heads`` (grouped or multi-query attention when smaller).
    dtype : {"fp16", "bf16", "fp8", "fp32"}
    additional_kv : int
        Extra context tokens that every query sees.
    backward : bool
        The backward pass instead of the forward pass.
    natten_version : {"0.20", "0.21.5", "0.21.7"}
        Which token permutation.
    """

    heads: int
    head_dim: int
    heads_kv: int
    batch: int = 1
    dtype: str = "fp16"
    additional_kv: int = 0
    backward: bool = False
    natten_version: str = "0.20"

    def __post_init__(self) -> None:
        for name in ("heads", "head_dim", "heads_kv", "batch", "additional_kv"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
                raise RefusedError(f"{name} {value!r}", "an integer", f"correct {name}")
            if value < (name != "additional_kv"):
                expected = "0 or more" if name == "additional_kv" else "at least 1"
                raise RefusedError(f"{name} {value}", expected, f"correct {name}")
        if not isinstance(self.backward, bool):
            raise RefusedError(f"backward {self.backward!r}", "true or false", "correct backward")
        if self.heads % self.heads_kv:
            raise RefusedError(
                f"{self.heads} heads with {self.heads_kv} KV heads",
                "a divisor of the heads",
                "correct heads_kv",
            )
        if not isinstance(self.dtype, str) or self.dtype not in DTYPE_BYTES:
            raise RefusedError(f"dtype {self.dtype!r}", "one of " + ", ".join(DTYPE_BYTES), "correct dtype")
        if not isinstance(self.natten_version, str) or self.natten_version not in PERMUTE_SPEEDUP:
            raise RefusedError(
                f"NATTEN version {self.natten_version!r}",
                "one of " + ", ".join(PERMUTE_SPEEDUP),
                "choose one",
            )


@dataclass(frozen=True)
class Projection:
    """Projected times, ms.

    Attributes
    ----------
    kernel_ms, kernel_low_ms, kernel_high_ms : float
        The attention kernel with its range.
    permute_ms : float
        Token permutation, forth and back.
    other_ms : float
        Repeated keys and values (grouped queries without native support), and the second kernel and
        merge of additional keys.
    total_ms, low_ms, high_ms : float
        All of it, with its range.
    dense_ms : float
        Dense self-attention on the same GPU.
    roofline_ms : float
        Floor of the kernel on any implementation with these tiles: visited tiles at the tensor peak, or
        Q, K, V and O once through memory.
    speedup, speedup_low, speedup_high : float
        ``dense_ms`` over the total, its high and its low.
    masked : bool
        The kernel applies a fine-grained mask, to every tile.
    max_visited, mean_visited : int, float
        KV tiles per Q tile.
    basis : {"calibrated", "scaled", "roofline"}
        How far to trust the times.
    """

    gpu: str
    backend: str
    q_tile: tuple[int, ...]
    kv_tile: tuple[int, ...]
    tiling: str
    kernel_ms: float
    kernel_low_ms: float
    kernel_high_ms: float
    permute_ms: float
    other_ms: float
    total_ms: float
    low_ms: float
    high_ms: float
    dense_ms: float
    roofline_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    masked: bool
    max_visited: int
    mean_visited: float
    basis: str
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as the command line prints them."""
        return asdict(self)


def dense_ms(gpu: Gpu, queries: int, keys: int, problem: Problem) -> Range:
    """Dense attention of ``queries`` to ``keys`` tokens, ms."""
    model, q_rows, kv_rows = dense_model(gpu, problem.head_dim, problem.dtype)
    q_tiles = -(-queries // q_rows) * problem.heads * problem.batch
    time = model.time_ms(model.busy_tiles_dense(q_tiles, -(-keys // kv_rows)))
    if not problem.backward:
        return time
    return _backward(time)


def _backward(forward: Range) -> Range:
    estimate = load("gpus.json")["estimates"]["backward"]
    time = forward.scaled(estimate["matmul_ratio"])
    return Range(time.value, time.low * estimate["low"], time.high * estimate["high"])


def _choose_tiles(
    pattern: Pattern, gpu: Gpu, backend: Backend, problem: Problem, q_tile: Any, kv_tile: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The given tile shapes if the backend has them, or its default."""
    pairs = tile_pairs(backend.name, pattern.rank, gpu.cc, problem.head_dim, problem.dtype, problem.backward)
    if q_tile is None and kv_tile is None:
        return pairs[0]
    wanted = [None if t is None else pattern.tile_shapes(t, t, backend.tiling)[0] for t in (q_tile, kv_tile)]
    for pair in pairs:
        if all(want is None or want == have for want, have in zip(wanted, pair, strict=True)):
            return pair
    listed = "; ".join(f"{'x'.join(map(str, q))} and {'x'.join(map(str, kv))}" for q, kv in pairs[:12])
    raise RefusedError(
        f"q_tile {q_tile} and kv_tile {kv_tile} with {backend.name}",
        f"a pair that the backend has: {listed}" + (" ..." if len(pairs) > 12 else ""),
        "choose one of these pairs",
    )


def _visits(
    pattern: Pattern, q_tile: tuple[int, ...], kv_tile: tuple[int, ...], tiling: str, backward: bool
) -> IntArray:
    if backward:
        return pattern.visited_q_tiles(q_tile, kv_tile, tiling)
    return pattern.visited_kv_tiles(q_tile, kv_tile, tiling)


def memory_floor_ms(pattern: Pattern, gpu: Gpu, problem: Problem) -> float:
    """Time to read Q, K and V and to write O once at the peak memory bandwidth, ms."""
    tensors = 2 * problem.heads + 2 * problem.heads_kv
    moved = DTYPE_BYTES[problem.dtype] * problem.batch * pattern.tokens * problem.head_dim * tensors
    return moved / (gpu.hbm_gbs * 1e6)


def roofline_ms(gpu: Gpu, problem: Problem, tile_area: int, tiles: float, memory_ms: float) -> float:
    """Floor of a kernel that works on ``tiles`` tiles per head, ms."""
    peak = gpu.fp8_tflops if problem.dtype == "fp8" and gpu.fp8_tflops else gpu.fp16_tflops
    products = 10.0 if problem.backward else 4.0
    flops = products * tile_area * problem.head_dim * tiles * problem.heads * problem.batch
    return max(flops / peak / 1e9, memory_ms)


def kernel_ms(
    pattern: Pattern,
    gpu: Gpu,
    backend: Backend,
    problem: Problem,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
) -> tuple[Range, bool, IntArray, str, tuple[str, ...]]:
    """Kernel time, whether it masks, visits per tile, basis and notes."""
    masked = not kernel_skips_mask(pattern, q_tile, kv_tile, backend.tiling)
    model = kernel_model(gpu, backend, q_tile, kv_tile, problem.head_dim, problem.dtype, masked)
    visits = _visits(pattern, q_tile, kv_tile, backend.tiling, problem.backward)
    time = model.time_ms(model.busy_tiles(visits, problem.heads * problem.batch))
    time = time.at_least(memory_floor_ms(pattern, gpu, problem))
    notes = model.notes
    if problem.backward:
        time = _backward(time)
        notes += ("backward: 2.5 times the matrix products of the forward tiles; not calibrated",)
    return time, masked, visits, model.basis, notes


def _surroundings(
    pattern: Pattern,
    gpu: Gpu,
    backend: Backend,
    problem: Problem,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
) -> tuple[Range, Range]:
    """Token permutation, and everything else around the kernel."""
    bandwidth = copy_bandwidth(gpu, problem.natten_version)
    itemsize = DTYPE_BYTES[problem.dtype]
    heads_kv = problem.heads_kv if backend.native_gqa else problem.heads
    permute = other = _NONE
    if backend.permutes and not (pattern.rank == 1 and pattern.dilation == (1,)):
        moved = permute_bytes(
            pattern,
            q_tile,
            kv_tile,
            heads=problem.heads,
            heads_kv=heads_kv,
            head_dim=problem.head_dim,
            batch=problem.batch,
            itemsize=itemsize,
            backward=problem.backward,
        )
        permute = copy_ms(moved, bandwidth)
    token_bytes = itemsize * problem.batch * pattern.tokens * problem.head_dim
    if heads_kv != problem.heads_kv:
        other += copy_ms(2 * token_bytes * (problem.heads + problem.heads_kv), bandwidth)
    if problem.additional_kv:
        other += dense_ms(gpu, pattern.tokens, problem.additional_kv, problem)
        # the merge reads two outputs and writes one
        other += copy_ms(3 * token_bytes * problem.heads, bandwidth)
    return permute, other


def project(
    pattern: Pattern,
    gpu: str | Gpu = "b200",
    backend: str | None = None,
    *,
    heads: int,
    head_dim: int,
    batch: int = 1,
    dtype: str = "fp16",
    q_tile: Any = None,
    kv_tile: Any = None,
    heads_kv: int | None = None,
    additional_kv: int = 0,
    backward: bool = False,
    natten_version: str = "0.20",
) -> Projection:
    """Project a pattern onto a GPU.

    Parameters
    ----------
    pattern : Pattern
    gpu : str or Gpu
    backend : str, optional
        NATTEN's choice for the GPU by default.
    heads, head_dim, batch, dtype, heads_kv, additional_kv, backward, natten_version
        See :class:`Problem`.
    q_tile, kv_tile : int or sequence of int, optional
        A pair that the backend has; its default otherwise.

    Returns
    -------
    Projection

    Raises
    ------
    RefusedError
        What the GPU or the backend cannot run.
    """
    target = get_gpu(gpu)
    problem = Problem(
        heads=heads,
        head_dim=head_dim,
        heads_kv=heads if heads_kv is None else heads_kv,
        batch=batch,
        dtype=dtype,
        additional_kv=additional_kv,
        backward=backward,
        natten_version=natten_version,
    )
    chosen = get_backend(target, backend)
    chosen.check(dtype, head_dim, backward)
    q_shape, kv_shape = _choose_tiles(pattern, target, chosen, problem, q_tile, kv_tile)
    return project_tiles(pattern, target, chosen, problem, q_shape, kv_shape)


def project_tiles(
    pattern: Pattern,
    gpu: Gpu,
    backend: Backend,
    problem: Problem,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
) -> Projection:
    """:func:`project` with everything chosen and checked."""
    dense = dense_ms(gpu, pattern.tokens, pattern.tokens + problem.additional_kv, problem)
    if pattern.is_dense:
        kernel, masked, basis = dense, False, gpu.basis
        notes: tuple[str, ...] = ("dense pattern: NATTEN's fast path",)
        permute = other = _NONE
        visits = np.full(
            1, prod(-(-n // t) for n, t in zip(pattern.layout, kv_tile, strict=True)), dtype=np.int64
        )
    else:
        kernel, masked, visits, basis, notes = kernel_ms(pattern, gpu, backend, problem, q_tile, kv_tile)
        permute, other = _surroundings(pattern, gpu, backend, problem, q_tile, kv_tile)
    total = kernel + permute + other
    tiles = (
        float(visits.sum()) if not pattern.is_dense else pattern.tokens**2 / (prod(q_tile) * prod(kv_tile))
    )
    floor = memory_floor_ms(pattern, gpu, problem)
    # the error of the tile time is common to both kernels, so the ratio keeps the point of the baseline
    return Projection(
        gpu=gpu.key,
        backend=backend.name,
        q_tile=q_tile,
        kv_tile=kv_tile,
        tiling=backend.tiling,
        kernel_ms=kernel.value,
        kernel_low_ms=kernel.low,
        kernel_high_ms=kernel.high,
        permute_ms=permute.value,
        other_ms=other.value,
        total_ms=total.value,
        low_ms=total.low,
        high_ms=total.high,
        dense_ms=dense.value,
        roofline_ms=roofline_ms(gpu, problem, prod(q_tile) * prod(kv_tile), tiles, floor),
        speedup=dense.value / total.value,
        speedup_low=dense.value / total.high,
        speedup_high=dense.value / total.low,
        masked=masked,
        max_visited=int(visits.max()),
        mean_visited=float(visits.mean()),
        basis=basis,
        notes=notes,
    )
