"""Ranges of activations: from samples to the scale of an int8 tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.calibration import choose_shared_scale
from hwattn.quant.settings import Settings
from hwattn.spec.graph import Float

_LIMIT = 127
_BINS = 2048
_LEVELS = 128
_STEP = 16

Groups = Sequence[tuple[Float, Float | None]]


def calibrated_scale(groups: Groups, settings: Settings, smallest: float = 0.3) -> float:
    """Scale of an int8 tensor.

    Parameters
    ----------
    groups : sequence of (values, importance)
        As of ``calibration.choose_shared_scale``; only the mean-square calibrator looks at the importance.
    smallest : float
        Lower end of the ranges tried, as a fraction of the largest magnitude.

    Returns
    -------
    float
        Range / 127; 1 / 127 for a tensor that is zero.
    """
    if settings.calibrator == "mean-square":
        return choose_shared_scale(groups, smallest)
    magnitudes = np.concatenate([np.abs(values).ravel() for values, _ in groups])
    peak = float(magnitudes.max(initial=0.0))
    if peak == 0.0:
        return 1.0 / _LIMIT
    if settings.calibrator == "min-max":
        reach = peak
    elif settings.calibrator == "percentile":
        reach = float(np.percentile(magnitudes, settings.percentile))
    else:
        reach = entropy_range(magnitudes)
    return max(reach, peak * smallest) / _LIMIT


def entropy_range(magnitudes: NDArray[np.floating]) -> float:
    """The range whose clipped and rounded histogram diverges least from the whole one.

    The Kullback-Leibler divergence of Migacz, "8-bit inference with TensorRT" (2017): for every range, the histogram
    with what lies beyond in its last bin, against the same in 128 levels.
    """
    counts, edges = np.histogram(magnitudes, bins=_BINS)
    # the bin of zeros would hide everything else
    counts[0] = counts[1]
    best, least = float(edges[-1]), np.inf
    for bins in range(_LEVELS, _BINS + 1, _STEP):
        inside = counts[:bins].astype(np.float64)
        clipped = inside.copy()
        clipped[-1] += counts[bins:].sum()
        level = np.arange(bins) * _LEVELS // bins
        used = inside > 0
        totals = np.bincount(level, inside, _LEVELS)
        filled = np.bincount(level, used, _LEVELS)
        spread = np.where(used, (totals / np.maximum(filled, 1))[level], 0.0)
        divergence = _divergence(clipped, spread)
        if divergence < least:
            best, least = float(edges[bins]), divergence
    return best


def _divergence(exact: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence of two histograms; infinite where the other is empty."""
    if not exact.sum() or not other.sum():
        return float("inf")
    p, q = exact / exact.sum(), other / other.sum()
    present = p > 0
    # a bin that only clipping fills has no counterpart: a small one stands for it
    return float((p[present] * np.log(p[present] / np.maximum(q[present], 1e-9))).sum())
