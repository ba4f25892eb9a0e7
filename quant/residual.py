"""Scales of the residual streams: one for each run of additions, from an embedding or a LayerNorm to the next."""

from __future__ import annotations

import math

import numpy as np

from hwattn.quant.calibration import Statistics
from hwattn.quant.kept import Kept
from hwattn.quant.reference import expert_hidden, linear, route
from hwattn.quant.roles import Role
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, Float, Graph, MixtureOfExperts, PatchEmbed, Rows

RESIDUAL_SQNR_MIN = 40.0
"""dB that rounding to int16 must leave in every tensor of a residual stream."""

_INT16_MAX = 32767
_HEADROOM = 2.0
_EXPERT_ROWS_MIN = 64


def residual_scales(
    graph: Graph, statistics: Statistics | None, roles: dict[str, Role], kept: Kept
) -> tuple[dict[str, float], float | None, list[str]]:
    """The scale of every tensor of a residual stream, the SQNR in dB that its rounding leaves at worst, and what has no scale.

    Tensors that are added have one scale; a pre-norm encoder has one in all, a post-norm encoder one for each block.
    The scales of a quantized file come first; a stream that has none there needs statistics. The SQNR is None
    where no stream was measured.

    Raises
    ------
    RefusedError
        A stream has outliers beyond what one int16 scale can hold.
    """
    scales: dict[str, float] = {}
    worst: float | None = None
    missing: list[str] = []
    reach = kept.reach()
    for stream in _streams(graph, roles):
        scale = kept.stream(stream, reach)
        if scale is None and statistics is None:
            missing.append(f"the residual stream from {stream[0]}")
        elif scale is None and statistics is not None:
            scale, sqnr = _residual_scale(graph, statistics, stream)
            worst = sqnr if worst is None else min(worst, sqnr)
        scales.update(dict.fromkeys(stream, scale or 1.0))
    return scales, worst, missing


def _streams(graph: Graph, roles: dict[str, Role]) -> list[list[str]]:
    """Tensors of the residual stream, in groups that are joined by additions."""
    group: dict[str, list[str]] = {}
    for node in graph.nodes:
        if roles[node.name] is not Role.RESIDUAL:
            continue
        joined = [node.name]
        for name in node.inputs if isinstance(node, Add | Rows) else ():
            if name in group and group[name] is not joined:
                joined = group[name] + [one for one in joined if one not in group[name]]
        for name in joined:
            group[name] = joined
    unique = {id(members): set(members) for members in group.values()}
    return [[node.name for node in graph.nodes if node.name in members] for members in unique.values()]


def _residual_scale(graph: Graph, statistics: Statistics, names: list[str]) -> tuple[float, float]:
    """The one scale of a residual stream, and the SQNR in dB that its rounding leaves."""
    members = [node for node in graph.nodes if node.name in names]
    peaks = [statistics.peaks[name] for name in names]
    peaks += [_expert_peak(node, statistics) for node in members if isinstance(node, MixtureOfExperts)]
    peaks += [float(np.abs(node.init).max()) for node in members if isinstance(node, PatchEmbed)]
    peak = max(peaks) or 1.0
    stream = [node.name for node in members if isinstance(node, PatchEmbed | Add)] or names
    powers = {name: float(np.square(statistics.rows(name), dtype=np.float64).mean()) for name in stream}
    for headroom in (_HEADROOM, 1.25):
        scale = peak * headroom / _INT16_MAX
        # every addition brings one more rounding error of scale^2 / 12
        noise = {name: scale**2 / 12 * (index + 1) for index, name in enumerate(stream)}
        worst = min(stream, key=lambda name: powers[name] / noise[name])
        sqnr = 10 * math.log10(max(powers[worst], 1e-30) / noise[worst])
        if sqnr >= RESIDUAL_SQNR_MIN:
            return scale, sqnr
    raise RefusedError(
        f"outliers in the residual stream (largest value {peak:.4g}, root mean square of {worst} "
        f"{math.sqrt(powers[worst]):.4g}) leave {sqnr:.1f} dB in int16",
        f"at least {RESIDUAL_SQNR_MIN:.0f} dB",
        "check that the calibration images are normalized as in training; else the model needs registers or "
        "clipping of its massive activations",
    )


def _expert_peak(node: MixtureOfExperts, statistics: Statistics) -> float:
    """Largest magnitude of an expert's result before the gate weighs it."""
    peak = 0.0
    for expert, rows in zip(node.experts, expert_rows(node, statistics), strict=True):
        made = linear(expert_hidden(expert, node.activation, rows), expert.fc2_weight, expert.fc2_bias)
        peak = max(peak, float(np.abs(made).max()))
    return peak


def expert_rows(node: MixtureOfExperts, statistics: Statistics) -> list[Float]:
    """For each expert the sampled tokens routed to it; all tokens where those are too few to calibrate with."""
    name = node.inputs[0]
    tokens = statistics.rows(name)
    chosen = np.concatenate(
        [route(node, rows[None], task)[0][0] for task, rows in enumerate(statistics.samples[name])]
    )
    routed = [tokens[(chosen == index).any(axis=-1)] for index in range(len(node.experts))]
    return [rows if len(rows) >= _EXPERT_ROWS_MIN else tokens for rows in routed]
