"""Weights: int8 per output channel, rounded so that the layer's output, not the weight, is close."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.calibration import fake
from hwattn.spec.graph import Float
from hwattn.spec.quantized import Float64, Int8, QuantizedMatrix

BIAS_LIMIT = 1 << 30
"""Largest magnitude of an integer bias."""

WIDE_LIMIT = 32767
"""Largest magnitude of a 16-bit input."""

_LIMIT = 127
_RANGES = np.linspace(1.0, 0.6, 21)
_DAMPING = 0.01
_BLOCK = 128
"""Columns whose errors are spread over the columns behind them at once, by one matrix product."""


def quantize_matrix(
    weight: Float,
    bias: Float,
    input_scale: float,
    inputs: Float,
    *,
    bits: int = 8,
    correct: bool = True,
    spread: bool = True,
) -> QuantizedMatrix:
    """Quantize the weights and bias of a linear layer for the inputs it will see.

    The mean of the inputs' and weights' rounding errors is moved into the bias (bias correction); the rest is
    minimized by `round_weights`.

    Parameters
    ----------
    weight : ndarray of float32, shape (out, in)
    bias : ndarray of float32, shape (out,)
    input_scale : float
        Scale of the int8 input; of 16 bits, that of their high byte.
    inputs : ndarray of float32, shape (rows, in)
        Samples of the input in real numbers.
    bits : int
        Of the input, 8 or 16.
    correct : bool
        Move the mean of the errors into the bias.
    spread : bool
        Spread rounding errors over the columns; see `round_weights`.
    """
    mean = inputs.mean(axis=0, dtype=np.float64)
    floor = np.abs(bias.astype(np.float64)) / (BIAS_LIMIT * input_scale)
    integers, scale = round_weights(weight, inputs, floor, spread=spread)
    step, limit = (input_scale, _LIMIT) if bits == 8 else (input_scale / 256, WIDE_LIMIT)
    seen = fake(inputs, step, limit).mean(axis=0, dtype=np.float64)
    real = bias.astype(np.float64)
    if correct:
        real = real + weight.astype(np.float64) @ mean - (integers * scale[:, None]) @ seen
    rounded = np.clip(np.rint(real / (input_scale * scale)), -BIAS_LIMIT, BIAS_LIMIT)
    return QuantizedMatrix(integers, scale, rounded.astype(np.int32))


def round_weights(
    weight: Float, inputs: Float, floor: Float64, *, spread: bool = True
) -> tuple[Int8, Float64]:
    """Round a matrix to int8 per row with the least error of ``weight @ (x - mean x)`` over `inputs`.

    Column after column, in descending input variance, the rounding error of a column is spread over the
    columns not yet rounded (GPTQ, arXiv 2210.17323, algorithm 1, with its blocks of columns).

    Parameters
    ----------
    weight : ndarray of float32, shape (out, in)
    inputs : ndarray of float32, shape (rows, in)
    floor : ndarray of float64, shape (out,)
        Smallest scale of each row.
    spread : bool
        Without it every weight goes to the nearest integer.

    Returns
    -------
    integers : ndarray of int8, shape (out, in)
    scale : ndarray of float64, shape (out,)
    """
    exact = weight.astype(np.float64)
    centred = inputs.astype(np.float64) - inputs.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred / max(len(inputs), 1)
    variance = np.diagonal(covariance).copy()
    power = float(variance.mean()) or 1.0
    scale = np.maximum(_row_scales(exact, variance + _DAMPING * power), floor)
    if not spread:
        return np.clip(np.rint(exact / scale[:, None]), -_LIMIT, _LIMIT).astype(np.int8), scale
    order, factor = _spreading(covariance)
    # columns are rows here: what belongs together lies together
    rest = np.ascontiguousarray(exact[:, order].T)
    integers = np.zeros(rest.shape, np.int8)
    for start in range(0, len(rest), _BLOCK):
        stop = min(start + _BLOCK, len(rest))
        errors = np.empty((stop - start, len(exact)))
        for column in range(start, stop):
            rounded = np.clip(np.rint(rest[column] / scale), -_LIMIT, _LIMIT)
            integers[column] = rounded
            error = (rest[column] - rounded * scale) / factor[column, column]
            rest[column + 1 : stop] -= factor[column, column + 1 : stop, None] * error
            errors[column - start] = error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    back = np.empty(exact.shape, np.int8)
    back[:, order] = integers.T
    return back, scale


def unexplained(inputs: Float) -> NDArray[np.float64]:
    """What `round_weights` leaves of the variance of each column of `inputs` (rows, in)."""
    centred = inputs.astype(np.float64) - inputs.mean(axis=0, dtype=np.float64)
    order, factor = _spreading(centred.T @ centred / max(len(inputs), 1))
    rest = np.empty(len(order))
    rest[order] = 1 / np.square(np.diagonal(factor))
    return rest


def _spreading(covariance: Float64) -> tuple[NDArray[np.int64], Float64]:
    """The order of columns, by falling variance, and the factor by which errors spread over the columns behind (GPTQ)."""
    variance = np.diagonal(covariance)
    order = np.argsort(-variance, kind="stable")
    power = float(variance.mean()) or 1.0
    damped = covariance[np.ix_(order, order)] + _DAMPING * power * np.eye(len(order))
    return order, np.linalg.cholesky(np.linalg.inv(damped)).T


def _row_scales(weight: NDArray[np.float64], importance: NDArray[np.float64]) -> Float64:
    """Scale of each row that leaves the least squared rounding error, columns weighed by `importance`."""
    peaks = np.abs(weight).max(axis=1)
    # a row of zeros needs some scale; the median keeps its multiplier ordinary
    usual = float(np.median(peaks[peaks > 0])) if np.any(peaks > 0) else 1.0
    peaks = np.maximum(peaks, usual * 2.0**-12)
    best: Float64 = peaks / _LIMIT
    least = np.full(len(weight), np.inf)
    for share in _RANGES:
        scale = peaks * share / _LIMIT
        rounded = np.clip(np.rint(weight / scale[:, None]), -_LIMIT, _LIMIT) * scale[:, None]
        error = np.square(rounded - weight) @ importance
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best
