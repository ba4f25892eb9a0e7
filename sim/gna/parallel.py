"""Several GPUs: heads or the sequence divided, with the halo of keys and values that windows need."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hwattn.sim.gna.axis import Axis
from hwattn.sim.gna.backends import Backend, get_backend
from hwattn.sim.gna.gpus import Gpu, get_gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import Problem, project_tiles
from hwattn.sim.gna.sparsity import kernel_skips_mask
from hwattn.sim.gna.tiles import group_products
from hwattn.sim.gna.timing import DTYPE_BYTES, kernel_model
from hwattn.spec.errors import RefusedError


@dataclass(frozen=True)
class ParallelProjection:
    """Attention divided over GPUs, ms.

    Attributes
    ----------
    gpus : int
    mode : {"heads", "sequence"}
    axis : int or None
        Axis of the layout that is cut, for "sequence".
    kernel_ms : float
        The slowest GPU's kernel.
    permute_ms : float
        Its token permutation and the rest around the kernel.
    halo_tokens : int
        Tokens whose keys and values the busiest GPU fetches from others.
    halo_bytes : int
    halo_ms : float
        Time on the link, not overlapped with the kernel.
    total_ms : float
    efficiency : float
        One GPU's time over ``gpus * total_ms``.
    """

    gpus: int
    mode: str
    axis: int | None
    kernel_ms: float
    permute_ms: float
    halo_tokens: int
    halo_bytes: int
    halo_ms: float
    total_ms: float
    efficiency: float


def axis_halo(axis: Axis, begin: int, stop: int) -> tuple[int, int]:
    """Tokens before ``begin`` and from ``stop`` on that the queries ``begin..stop-1`` see.

    Windows are monotone inside a dilation group, so the first and the last ``dilation`` queries of the
    slab bound what it needs.
    """
    low, high = begin, stop
    for query in {
        *range(begin, min(begin + axis.dilation, stop)),
        *range(max(stop - axis.dilation, begin), stop),
    }:
        group, position = query % axis.dilation, query // axis.dilation
        n = axis.group_length(group)
        first, end = _window(axis, position, n)
        low = min(low, first * axis.dilation + group)
        high = max(high, (end - 1) * axis.dilation + group + 1)
    return begin - low, high - stop


def _window(axis: Axis, position: int, n: int) -> tuple[int, int]:
    first = position // axis.stride * axis.stride
    leader = min(first + (axis.stride - 1 if axis.causal else axis.stride // 2), n - 1)
    if axis.causal:
        return max(leader - axis.window + 1, 0), min(position + 1, n)
    start = min(max(leader - axis.window // 2, 0), n - axis.window)
    return start, start + axis.window


def _slabs(axis: Axis, q_tile: int, gpus: int) -> list[tuple[int, int]]:
    """Q tiles of each GPU along an axis, as even as possible: (first tile, stop tile)."""
    tiles = -(-axis.group_length(0) // q_tile)
    if gpus > tiles:
        raise RefusedError(
            f"{gpus} GPUs for {tiles} Q tiles along the axis",
            f"at most {tiles} GPUs",
            "cut another axis, or the heads",
        )
    bounds = [round(tiles * rank / gpus) for rank in range(gpus + 1)]
    return list(pairwise(bounds))


def project_parallel(
    pattern: Pattern,
    gpus: int,
    gpu: str | Gpu = "b200",
    mode: str = "sequence",
    axis: int = 0,
    *,
    problem: Problem,
    backend: str | None = None,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
) -> ParallelProjection:
    """Project attention divided over several GPUs.

    Parameters
    ----------
    pattern : Pattern
    gpus : int
    gpu : str or Gpu
    mode : {"heads", "sequence"}
        Heads: each GPU holds whole sequences of some heads and exchanges nothing. Sequence: each GPU
        holds a slab of one axis, cut at Q tiles, and fetches the keys and values around it.
    axis : int
        Axis that is cut.
    problem : Problem
    backend, q_tile, kv_tile
        As in :func:`~hwattn.sim.gna.projection.project`.

    Notes
    -----
    The exchange happens before the kernel, over one link, both directions at once; it is an upper
    bound, for it can hide under the tiles that need no halo.
    """
    target = get_gpu(gpu)
    chosen = get_backend(target, backend)
    if gpus < 1:
        raise RefusedError(f"{gpus} GPUs", "at least 1", "correct the number of GPUs")
    alone = project_tiles(pattern, target, chosen, problem, q_tile, kv_tile)
    if mode == "heads":
        return _by_heads(pattern, gpus, target, chosen, problem, q_tile, kv_tile, alone.total_ms)
    if mode != "sequence":
        raise RefusedError(f"mode {mode!r}", "heads or sequence", "choose one")
    if not 0 <= axis < pattern.rank:
        raise RefusedError(f"axis {axis}", f"0 to {pattern.rank - 1}", "name an axis of the layout")
    if target.link_gbs is None and gpus > 1:
        raise RefusedError(f"{target.name} has no link", "a GPU with link_gbs", "choose another GPU")
    return _by_sequence(pattern, gpus, target, chosen, problem, q_tile, kv_tile, axis, alone.total_ms)


def _by_heads(
    pattern: Pattern,
    gpus: int,
    gpu: Gpu,
    backend: Backend,
    problem: Problem,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    alone_ms: float,
) -> ParallelProjection:
    groups = problem.heads_kv
    if gpus > groups:
        raise RefusedError(f"{gpus} GPUs for {groups} KV heads", f"at most {groups} GPUs", "cut the sequence")
    share = -(-groups // gpus)
    part = Problem(
        heads=problem.heads // groups * share,
        head_dim=problem.head_dim,
        heads_kv=share,
        batch=problem.batch,
        dtype=problem.dtype,
        additional_kv=problem.additional_kv,
        backward=problem.backward,
        natten_version=problem.natten_version,
    )
    shown = project_tiles(pattern, gpu, backend, part, q_tile, kv_tile)
    return ParallelProjection(
        gpus,
        "heads",
        None,
        shown.kernel_ms,
        shown.permute_ms + shown.other_ms,
        0,
        0,
        0.0,
        shown.total_ms,
        alone_ms / (gpus * shown.total_ms),
    )


def _by_sequence(
    pattern: Pattern,
    gpus: int,
    gpu: Gpu,
    backend: Backend,
    problem: Problem,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    axis: int,
    alone_ms: float,
) -> ParallelProjection:
    masked = not kernel_skips_mask(pattern, q_tile, kv_tile, backend.tiling)
    model = kernel_model(gpu, backend, q_tile, kv_tile, problem.head_dim, problem.dtype, masked)
    counts = pattern.axis_counts(q_tile, kv_tile, backend.tiling)
    cut, others = pattern.axes[axis], pattern.tokens // pattern.layout[axis]
    reach = q_tile[axis] * cut.dilation
    kernel, halo = 0.0, 0
    for first, stop in _slabs(cut, q_tile[axis], gpus):
        part = [list(groups) for groups in counts]
        part[axis] = [groups[first:stop] for groups in counts[axis]]
        busy = model.busy_tiles(group_products(pattern.axes, part), problem.heads * problem.batch)
        kernel = max(kernel, model.time_ms(busy).value)
        before, after = axis_halo(cut, first * reach, min(stop * reach, cut.length))
        halo = max(halo, before + after)
    alone = project_tiles(pattern, gpu, backend, problem, q_tile, kv_tile)
    around = (alone.permute_ms + alone.other_ms) * _largest_share(cut, q_tile[axis], gpus)
    halo_tokens = halo * others
    halo_bytes = (
        2 * DTYPE_BYTES[problem.dtype] * problem.batch * halo_tokens * problem.heads_kv * problem.head_dim
    )
    halo_ms = halo_bytes / ((gpu.link_gbs or 1.0) * 1e6) if halo_bytes else 0.0
    total = kernel + around + halo_ms
    return ParallelProjection(
        gpus,
        "sequence",
        axis,
        kernel,
        around,
        halo_tokens,
        halo_bytes,
        halo_ms,
        total,
        alone_ms / (gpus * total),
    )


def _largest_share(axis: Axis, q_tile: int, gpus: int) -> float:
    slabs = _slabs(axis, q_tile, gpus)
    return max(stop - first for first, stop in slabs) / slabs[-1][1]
