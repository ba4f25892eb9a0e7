"""Token permutation, repeated keys and values, and merged outputs: the memory traffic around a kernel."""

from __future__ import annotations

from math import prod

from hwattn.sim.gna.data import load
from hwattn.sim.gna.gpus import Gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.timing import Range

PERMUTE_SPEEDUP = {"0.20": 1.0, "0.21.5": 1.5, "0.21.7": 5.0}
"""Bandwidth of the permutation against NATTEN up to 0.21.1: pull requests 297 (B200) and 343 ("up to 5x")."""

_LSE_BYTES = 4


def padded_tokens(pattern: Pattern, tile: tuple[int, ...]) -> int:
    """Tokens after padding every axis to a multiple of ``tile * dilation``."""
    return prod(
        -(-length // (extent * dilation)) * extent * dilation
        for length, extent, dilation in zip(pattern.layout, tile, pattern.dilation, strict=True)
    )


def permute_bytes(
    pattern: Pattern,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    *,
    heads: int,
    heads_kv: int,
    head_dim: int,
    batch: int,
    itemsize: int,
    backward: bool = False,
) -> int:
    """Bytes read and written by the token permutation (arXiv 2504.16922, section 4.2).

    Forward: Q, K, V in and O and its log-sum-exp out, each read once and written once. Without padding
    and with ``heads_kv == heads`` this is ``8 * itemsize * batch * N * heads * head_dim`` and the
    log-sum-exp. Backward: Q, O, dO, K, V in, dQ, dK, dV out.
    """
    tokens = pattern.tokens
    rows = tokens + padded_tokens(pattern, q_tile)
    columns = tokens + padded_tokens(pattern, kv_tile)
    q_tensors, kv_tensors = (4, 4) if backward else (2, 2)
    values = itemsize * head_dim * (q_tensors * rows * heads + kv_tensors * columns * heads_kv)
    return batch * (values + _LSE_BYTES * rows * heads)


def copy_bandwidth(gpu: Gpu, natten_version: str = "0.20") -> Range:
    """Achieved bandwidth of the permutation in GB/s: middle, least and greatest."""
    share = load("gpus.json")["estimates"]["copy_share"]
    low, high = gpu.copy_gbs or (share["low"] * gpu.hbm_gbs, share["high"] * gpu.hbm_gbs)
    factor = PERMUTE_SPEEDUP[natten_version]
    low, high = (min(value * factor, gpu.hbm_gbs) for value in (low, high))
    return Range((low * high) ** 0.5, low, high)


def copy_ms(byte_count: float, bandwidth: Range) -> Range:
    """Time of a copy, ms; a low bandwidth makes the high time."""
    return Range(*(byte_count / (rate * 1e6) for rate in (bandwidth.value, bandwidth.high, bandwidth.low)))
