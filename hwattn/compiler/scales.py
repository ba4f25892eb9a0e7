"""Requantization constants from the scales of tensors, and the proof that accumulators do not overflow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.errors import RefusedError
from hwattn.spec.numbers import SHIFT_MAX, Int64, quantize_multiplier
from hwattn.spec.tables import ACTIVATION_FRACTION, ACTIVATION_INPUT_FRACTION, SCORE_FRACTION_BITS

ACCUMULATOR_LIMIT = 2**31
GATE_SCORE_LIMIT = 2**47
PROBABILITY_MAX = 2**16 - 1

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """A factor ``multiplier / 2**shift``."""

    multiplier: int
    shift: int


def scaling(factor: float, where: str) -> Scaling:
    """Write a real factor as multiplier and shift.

    Parameters
    ----------
    factor : float
        At least 0 and below 2**15.
    where : str
        Node that needs it, for the message.

    Raises
    ------
    RefusedError
        If the factor cannot be written.
    """
    try:
        return Scaling(*quantize_multiplier(factor))
    except ValueError as error:
        raise RefusedError(
            f"{where}: a scale of {factor:.6g} between accumulator and result",
            "a factor from 0 to 2**15",
            "calibrate again with images that the model is made for",
        ) from error


def channel_params(
    bias: NDArray[np.int32], factors: Float64, activation: bool, where: str
) -> NDArray[np.int64]:
    """Build the parameter entries (bias, multiplier, shift) of output channels.

    Parameters
    ----------
    bias : ndarray of int32, shape (out,)
    factors : ndarray of float64, shape (out,)
        Real value of one accumulator unit, in units of the result's scale (1 where an activation follows).
    activation : bool
        Whether the first scaling makes the activation's input, with its fraction bits, instead of the result.
    where : str
        Node, for messages.

    Returns
    -------
    ndarray of int64, shape (out, 3)
    """
    entries = np.zeros((len(bias), 3), np.int64)
    unit = 2.0**ACTIVATION_INPUT_FRACTION if activation else 1.0
    for channel, factor in enumerate(factors):
        constants = scaling(float(factor) * unit, where)
        entries[channel] = int(bias[channel]), constants.multiplier, constants.shift
    return entries


def activation_scaling(result_scale: float, where: str) -> Scaling:
    """Return the second scaling after an activation, whose output has 19 fraction bits."""
    return scaling(2.0**-ACTIVATION_FRACTION / result_scale, where)


def score_scaling(factor: float, where: str) -> Scaling:
    """Return the scaling of integer scores to base-2 fixed point; `factor` is the real value of one unit."""
    return scaling(factor * math.log2(math.e) * 2.0**SCORE_FRACTION_BITS, where)


def route_scaling(factor: float, where: str) -> tuple[int, Scaling]:
    """Return the score shift of a gate and the scaling after it; `factor` is the real value of one score unit.

    The shift leaves 8 bits below the last fraction bit of the base-2 score, so that 32 bits span far more than its range.
    """
    wanted = factor * math.log2(math.e) * 2.0**SCORE_FRACTION_BITS
    score_shift = max(0, math.floor(-8 - math.log2(wanted)))
    return score_shift, scaling(wanted * 2.0**score_shift, where)


def row_scaling(value_scale: float, result_scale: float, keys: int, where: str) -> Scaling:
    """Return the constants of a POST that divides by the softmax sum.

    The accumulator holds ``sum(p16 * v) / 256``, whatever `p_bits` is, and the reciprocal gives ``1 / sum(p16)``: so the factor
    is 256 times the ratio of the scales. Its shift leaves room for the bits of the largest sum of `keys` probabilities; a factor
    so small that it needs more is written with fewer bits.
    """
    factor = 256.0 * value_scale / result_scale
    constants = scaling(factor, where)
    largest = SHIFT_MAX - min(32, (keys * PROBABILITY_MAX).bit_length())
    if constants.shift <= largest:
        return constants
    return Scaling(math.floor(factor * 2.0**largest + 0.5), largest)


def resident_limit(bits: int) -> int:
    """Largest magnitude of a resident operand of 8 or 16 bits; the low digit of 16 adds less than one to the high digit."""
    return 128 if bits == 8 else 129


def check_accumulators(weight: Int64, bias: Int64, limit: int, where: str) -> None:
    """Prove that no accumulator can overflow.

    Parameters
    ----------
    weight : ndarray of int64, shape (out, in)
        Streamed rows.
    bias : ndarray of int64, shape (out,)
    limit : int
        Largest magnitude of a resident operand: of `resident_limit`, or 255 for uint8.
    where : str
        Node, for the message.

    Raises
    ------
    RefusedError
        If ``|acc + bias|`` could reach 2**31.
    """
    worst = np.abs(weight).sum(axis=1) * limit + np.abs(bias)
    channel = int(np.argmax(worst))
    if worst[channel] >= ACCUMULATOR_LIMIT:
        raise RefusedError(
            f"{where}: output channel {channel} can reach {int(worst[channel])} in the accumulator",
            f"less than {ACCUMULATOR_LIMIT}",
            "quantize the layer with a coarser weight scale",
        )
