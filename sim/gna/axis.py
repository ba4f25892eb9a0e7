"""The one-dimensional rule of Generalized Neighborhood Attention.

The N-D mask is separable: a key is visible to a query when it is visible on every axis. Everything
else in this package is built from the functions below, which work on one *dilation group* of one
axis. Source of the rules: Hassani et al., "Generalized Neighborhood Attention", arXiv 2504.16922,
section 3, and the NATTEN documentation; they were checked against masks made by NATTEN itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a pattern.

    Parameters
    ----------
    length : int
        Tokens along the axis.
    window : int
        Keys that an (interior, non-causal) query sees.
    stride : int
        Queries that share one window.
    dilation : int
        Step between neighboring keys.
    causal : bool
        Whether keys after the query are hidden.
    """

    length: int
    window: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False

    @property
    def is_dense(self) -> bool:
        """Whether every query sees the whole axis."""
        return self.window == self.length and not self.causal

    def group_length(self, group: int) -> int:
        """Tokens of dilation group ``group`` (indices ``group``, ``group + dilation``, ...)."""
        return (self.length - group + self.dilation - 1) // self.dilation

    def group_lengths(self) -> IntArray:
        """Tokens of each dilation group, int (dilation,)."""
        if self.dilation == 1:
            return np.array([self.length], dtype=np.int64)
        groups = np.arange(self.dilation, dtype=np.int64)
        return (self.length - groups + self.dilation - 1) // self.dilation


def leaders(positions: Any, n: Any, axis: Axis) -> IntArray:
    """Position of the query whose window the whole stride group uses.

    Parameters
    ----------
    positions : array_like of int
        Query positions inside the dilation group; padded positions (>= n) are allowed.
    n : int
        Tokens of the dilation group.
    axis : Axis

    Returns
    -------
    numpy.ndarray of int64
        The centre query of the stride group (the right one of the two when the stride is even), or
        the last query when the axis is causal; never beyond ``n - 1``.
    """
    positions = np.asarray(positions, dtype=np.int64)
    first = positions - positions % axis.stride if axis.stride > 1 else positions
    offset = axis.stride - 1 if axis.causal else axis.stride // 2
    leader: IntArray = np.minimum(first + offset, n - 1)
    return leader


def window_starts(positions: Any, n: int, axis: Axis) -> IntArray:
    """First visible key position of each query position; shape of ``positions``, int64."""
    leader = leaders(positions, n, axis)
    if axis.causal:
        return np.maximum(leader - axis.window + 1, 0)
    # two ufuncs: np.clip costs several times as much on the short arrays of a search
    starts: IntArray = np.minimum(np.maximum(leader - axis.window // 2, 0), n - axis.window)
    return starts


def window_ends(positions: Any, n: int, axis: Axis) -> IntArray:
    """One past the last visible key position of each query position; int64."""
    if axis.causal:
        return np.minimum(np.asarray(positions, dtype=np.int64) + 1, n)
    ends: IntArray = window_starts(positions, n, axis) + axis.window
    return ends


@lru_cache(maxsize=256)
def group_windows(axis: Axis, n: int) -> tuple[IntArray, IntArray]:
    """Starts and exclusive ends of the windows of a whole dilation group of ``n`` tokens."""
    positions = np.arange(n, dtype=np.int64)
    starts, ends = window_starts(positions, n, axis), window_ends(positions, n, axis)
    starts.setflags(write=False)
    ends.setflags(write=False)
    return starts, ends


def axis_windows(axis: Axis) -> IntArray:
    """Visible keys of every query of an axis.

    Returns
    -------
    numpy.ndarray of int64, shape (length, 3)
        Start, stop (exclusive: one past the last key) and step, in token indices, so that
        ``range(*row)`` lists the keys.
    """
    index = np.arange(axis.length, dtype=np.int64)
    result = np.empty((axis.length, 3), dtype=np.int64)
    for group in range(axis.dilation):
        starts, ends = group_windows(axis, axis.group_length(group))
        members = index[group :: axis.dilation]
        result[members, 0] = starts * axis.dilation + group
        result[members, 1] = (ends - 1) * axis.dilation + group + 1
    result[:, 2] = axis.dilation
    return result


def axis_mask(axis: Axis) -> npt.NDArray[np.bool_]:
    """Mask of one axis, bool (length queries, length keys)."""
    windows = axis_windows(axis)
    key = np.arange(axis.length, dtype=np.int64)[None, :]
    inside = (key >= windows[:, :1]) & (key < windows[:, 1:2])
    mask: npt.NDArray[np.bool_] = inside & ((key - windows[:, :1]) % axis.dilation == 0)
    return mask


def axis_pairs(axis: Axis) -> int:
    """Unmasked (query, key) pairs of an axis, in closed form over its dilation groups."""
    if not axis.causal:
        return axis.length * axis.window
    total = 0
    for n in set(axis.group_lengths().tolist()):
        starts, ends = group_windows(axis, n)
        total += int(np.count_nonzero(axis.group_lengths() == n)) * int((ends - starts).sum())
    return total


@lru_cache(maxsize=512)
def axis_locality(axis: Axis) -> float:
    """Share of the stride-1 window that the strided window keeps, mean over queries (0..1].

    A stride trades locality for block sparsity: queries away from their leader lose neighbors on
    one side and gain distant keys on the other. 1.0 is plain neighborhood attention.
    """
    centred = Axis(axis.length, axis.window, 1, axis.dilation, axis.causal)
    kept = wanted = 0
    for n in axis.group_lengths().tolist():
        starts, ends = group_windows(axis, n)
        centred_starts, centred_ends = group_windows(centred, n)
        overlap = np.minimum(ends, centred_ends) - np.maximum(starts, centred_starts)
        kept += int(np.maximum(overlap, 0).sum())
        wanted += int((centred_ends - centred_starts).sum())
    return kept / wanted
