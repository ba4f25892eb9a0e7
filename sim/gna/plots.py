"""Plots of the simulator's results, as PNG or SVG; needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwattn.sim.gna.exploration import SearchResult
from hwattn.sim.gna.gpus import Gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.projection import Projection
from hwattn.spec.errors import RefusedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def _figure(width: float = 7.0, height: float = 4.4) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RefusedError("no matplotlib", "matplotlib for plots", "pip install matplotlib") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the ending of the name decides between PNG and SVG."""
    if path.suffix.lower() not in FORMATS:
        raise RefusedError(f"plot file {path.name}", "a name that ends in .png or .svg", "rename it")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=144)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def plot_strides(
    pattern: Pattern, axis: int, q_tile: tuple[int, ...], kv_tile: tuple[int, ...], tiling: str = "static"
) -> Figure:
    """Speedup against the stride of one axis: maximum-based, mean-based, and the FLOP-wise bound."""
    strides = range(1, pattern.window[axis] + 1)
    speedups = []
    for stride in strides:
        chosen = (*pattern.stride[:axis], stride, *pattern.stride[axis + 1 :])
        moved = Pattern(pattern.layout, pattern.window, chosen, pattern.dilation, pattern.causal)
        speedups.append(moved.speedup(q_tile, kv_tile, tiling))
    figure, axes = _figure()
    axes.step(strides, [s.simulated for s in speedups], where="mid", label="simulated (worst Q tile)")
    axes.step(strides, [s.mean for s in speedups], where="mid", label="mean over Q tiles")
    axes.axhline(speedups[0].flopwise, color="gray", linestyle="--", label="FLOP-wise")
    exact = [(stride, s.simulated) for stride, s in zip(strides, speedups, strict=True) if s.block_sparse]
    if exact:
        axes.plot(*zip(*exact, strict=True), "k*", label="perfectly block-sparse")
    axes.set(xlabel=f"stride along axis {axis}", ylabel="speedup over dense attention")
    axes.set_title(f"layout {_text(pattern.layout)}, window {_text(pattern.window)}")
    axes.legend()
    return figure


def plot_visits(
    pattern: Pattern,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    tiling: str = "static",
    plane: int = 0,
) -> Figure:
    """Heat map of the KV tiles that each Q tile visits; for 3-D layouts the plane ``plane`` of Q tiles."""
    counts = pattern.axis_counts(q_tile, kv_tile, tiling)
    first = [groups[0] for groups in counts]
    if pattern.rank == 3:
        if not 0 <= plane < first[0].size:
            raise RefusedError(f"plane {plane}", f"0 to {first[0].size - 1}", "choose a plane of Q tiles")
        grid = first[0][plane] * np.multiply.outer(first[1], first[2])
    elif pattern.rank == 2:
        grid = np.multiply.outer(first[0], first[1])
    else:
        grid = first[0][None, :]
    figure, axes = _figure()
    image = axes.imshow(grid, aspect="auto", cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="KV tiles visited")
    axes.set(
        xlabel="Q tile along the last axis", ylabel="Q tile along the axis before" if pattern.rank > 1 else ""
    )
    where = f", plane {plane} of {first[0].size}" if pattern.rank == 3 else ""
    axes.set_title(f"window {_text(pattern.window)}, stride {_text(pattern.stride)}{where}")
    return figure


def plot_pareto(result: SearchResult) -> Figure:
    """Projected time against locality of all candidates, with the Pareto front."""
    figure, axes = _figure()
    points = [(c.projection.total_ms, 100 * c.locality) for c in result.candidates]
    axes.scatter(*zip(*points, strict=True), s=14, color="lightgray", label="candidates")
    front = [(c.projection.total_ms, 100 * c.locality) for c in result.front]
    axes.plot(*zip(*front, strict=True), "o-", label="Pareto front")
    for candidate in result.front:
        axes.annotate(
            _text(candidate.pattern.stride),
            (candidate.projection.total_ms, 100 * candidate.locality),
            textcoords="offset points",
            xytext=(5, -9),
            fontsize=7,
        )
    axes.set(xlabel="projected time, ms", ylabel="neighborhood kept, %")
    axes.set_title(f"strides and tiles on {result.best.projection.gpu}")
    axes.legend()
    return figure


def plot_roofline(
    gpu: Gpu, points: Sequence[tuple[str, float, float]], projections: Sequence[Projection]
) -> Figure:
    """Roofline of a GPU with kernels on it.

    Parameters
    ----------
    gpu : Gpu
    points : sequence of (label, FLOPs, bytes)
    projections : sequence of Projection
        One for each point.
    """
    figure, axes = _figure()
    ridge = gpu.fp16_tflops * 1e3 / gpu.hbm_gbs
    low = min([ridge / 8, *(flops / moved / 2 for _, flops, moved in points)])
    high = max([ridge * 8, *(flops / moved * 2 for _, flops, moved in points)])
    intensity = np.geomspace(low, high, 200)
    axes.loglog(intensity, np.minimum(gpu.fp16_tflops, intensity * gpu.hbm_gbs / 1e3), "k-", label=gpu.name)
    for (label, flops, moved), shown in zip(points, projections, strict=True):
        rate, least, most = (
            flops / ms / 1e9 for ms in (shown.kernel_ms, shown.kernel_high_ms, shown.kernel_low_ms)
        )
        axes.errorbar(
            [flops / moved], [rate], yerr=[[rate - least], [most - rate]], fmt="o", capsize=3, label=label
        )
    axes.set(xlabel="FLOP per byte of Q, K, V, O", ylabel="TFLOP/s")
    axes.legend(fontsize=8)
    return figure


def _text(values: Sequence[int]) -> str:
    return "x".join(map(str, values))
